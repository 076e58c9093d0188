"""`switchq generate`: an artifact continues a prompt, as it goes, at bitmaps that may change on the way."""

from rich.console import Console

from switchq.bitmap import Bitmap
from switchq.commands.prompt import check_prompt
from switchq.commands.quiet import quiet
from switchq.errors import UserError
from switchq.evaluation.memory import MB
from switchq.inference import SwitchableLM
from switchq.inference.bench import SLOWER
from switchq.inference.source import Prefer
from switchq.inference.stream import Spoken, read_schedule, split_schedule, stream
from switchq.models import pick_device
from switchq.words import count_of


def generate_command(
    artifact: str,
    prompt: str,
    bitmap: str | None,
    schedule: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    prefer: Prefer,
    device: str,
) -> None:
    """See `switchq.verbs.generate`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    check_prompt(prompt)
    for name, value in (("max_new_tokens", max_new_tokens), ("top_k", top_k)):
        if value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    if temperature < 0:
        raise UserError(f"--temperature must be 0 or more, not {temperature}")
    if not 0 <= seed < 2**64:
        raise UserError(f"--seed must be 0 to 2^64 - 1, not {seed}")
    if bitmap is not None and schedule is not None:
        raise UserError("give --bitmap, or a --schedule of bitmaps, not both")
    first = split_schedule(schedule)[0] if schedule is not None else bitmap
    lm = SwitchableLM.from_pretrained(artifact, first, device=pick_device(device), prefer=prefer)
    plan = read_schedule(schedule, tuple(lm.artifact.manifest.layers)) if schedule is not None else {0: lm.bitmap}
    spoken = stream(lm, prompt, plan, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed)
    said = Console(stderr=True)
    said.print(
        f"{_pace(spoken, schedule or lm.bitmap)}; {lm.bytes_read / MB:.1f} MB read", soft_wrap=True, highlight=False
    )
    slower: dict[int, float] = {}
    for start, one in plan.items():
        if start < spoken.tokens:
            lm.set_bitmap(one)
            slower |= lm.slower_than_float32()
    for bits, factor in slower.items():
        said.print(SLOWER.format(bits=bits, factor=factor))


def _pace(spoken: Spoken, at: Bitmap | str) -> str:
    """How fast it came: the time to the first token, and the rate of those after it where there are any."""
    rate = f", then {spoken.tokens_per_s:.1f} a second" if spoken.tokens > 1 else ""
    return f"{count_of(spoken.tokens, 'token')} at {at}: first after {spoken.first_seconds * 1e3:.0f} ms{rate}"
