"""Decoding from an artifact against plain float32 `generate`, side by side; what a switch and a read cost.

python tests/bench/bench_artifact.py --threads 1 --clock cpu --embeddings 8
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from sidebyside import parser, prepare, report, side_by_side
from subjects import SHAPES, quiet, save_random
from transformers import PreTrainedModel

from switchq.inference import SwitchableLM, export_artifact
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.quant import Nested

WIDTHS = (8, 4, 2)
SWITCHES = 200


def main(argv: list[str] | None = None) -> float:
    """Measure, print and write; returns the ratio of the widest width to float32."""
    options = parser(__doc__)
    options.add_argument("--shapes", choices=sorted(SHAPES), default="gpt2", help="of the model; weights are random")
    options.add_argument("--group-size", type=int, default=None, help="of the nested grid; one scale a row by default")
    options.add_argument("--embeddings", type=int, choices=(8, 16, 32), default=16, help="bits of the embeddings")
    options.add_argument("--prompt", type=int, default=32, help="tokens of the prompt")
    options.add_argument("--tokens", type=int, default=16, help="tokens to decode in a call")
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments, Path(folder))


def compare(arguments, place: Path) -> float:  # type: ignore[no-untyped-def]
    """Export a random model with adapters at all widths, and time it beside itself."""
    base = save_random(arguments.shapes, "float32", place / "base")
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    make_switchable(model, WIDTHS, Nested(arguments.group_size))
    done = export_artifact(
        model,
        tokenizer,
        place / "artifact",
        widths=WIDTHS,
        base={"name": "random", "sha256": ""},
        embedding_bits=arguments.embeddings,
    )
    del model
    lms = {f"{bits} bits": SwitchableLM.from_pretrained(place / "artifact", bits) for bits in WIDTHS}
    plain = load_model(str(base))
    ids_1T = torch.randint(0, 1000, (1, arguments.prompt))
    decoding, first = (
        {
            "float32": generation(plain, ids_1T, tokens),
            **{name: stepping(lm, ids_1T, tokens) for name, lm in lms.items()},
        }
        for tokens in (arguments.tokens, 1)
    )
    whole = side_by_side(decoding, arguments.rounds, clock=arguments.clock)
    prompts = side_by_side(
        {f"{name}, first token": call for name, call in first.items()}, arguments.rounds, clock=arguments.clock
    )
    report(
        f"Artifact: {arguments.shapes}, {arguments.prompt} prompt tokens, {arguments.tokens} tokens in a call",
        [*whole, *prompts],
        arguments,
        megabytes={part: round(size / 1e6, 1) for part, size in done.bytes.items()},
        megabytes_in_all=round(sum(done.bytes.values()) / 1e6, 1),
        megabytes_read={name: round(lm.bytes_read / 1e6, 1) for name, lm in lms.items()},
        megabytes_of_packed_layers={name: round(lm.resident_bytes / 1e6, 1) for name, lm in lms.items()},
        milliseconds_a_token={
            row.name: round((row.seconds - one.seconds) / (arguments.tokens - 1) * 1e3, 2)
            for row, one in zip(whole, prompts, strict=True)
        },
        switch_microseconds=round(switch_seconds(lms[f"{WIDTHS[0]} bits"]) * 1e6, 1),
    )
    return whole[1].ratio


def generation(model: PreTrainedModel, ids_1T: torch.Tensor, tokens: int) -> Callable[[], object]:
    """A call that generates exactly so many tokens, greedily."""
    mask_1T = torch.ones_like(ids_1T)
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    return lambda: model.generate(ids_1T, attention_mask=mask_1T, **options)


def stepping(lm: SwitchableLM, ids_1T: torch.Tensor, tokens: int) -> Callable[[], object]:
    """A call that takes exactly so many tokens with the artifact's own decoder, greedily."""
    decoder = lm.decoder
    assert decoder is not None
    return lambda: list(decoder.tokens(ids_1T, new_tokens=tokens))


def switch_seconds(lm: SwitchableLM) -> float:
    """The median of a switch between prepared bitmaps."""
    bitmaps = [lm.set_bitmap(bitmap) for bitmap in ("8", "8/4", "4", "4/2", "2")]
    seconds = []
    for bitmap in itertools.islice(itertools.cycle(bitmaps), SWITCHES):
        began = perf_counter()
        lm.set_bitmap(bitmap)
        seconds.append(perf_counter() - began)
    return sorted(seconds)[SWITCHES // 2]


if __name__ == "__main__":
    main()
    sys.exit(0)
