"""Text as it is generated, at bitmaps that change on the way; the key-value cache goes on across a change."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextStreamer

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.inference.model import SwitchableLM
from switchq.models import context_window
from switchq.models.inference import COLDEST, own_generation_config
from switchq.nn import get_switch


def split_schedule(text: str) -> dict[int, str]:
    """`0:8,32:4` as {token: bitmap as text}, which says nothing yet of whether a model has these bitmaps.

    A bitmap with commas of its own does not fit in here: write it to a file and give `@file.json`.

    Raises:
        UserError: not of this form, a token number below 0 or twice, no bitmap for token 0.
    """
    schedule: dict[int, str] = {}
    for item in text.split(","):
        start, colon, bitmap = item.strip().partition(":")
        if not colon or not bitmap or not start.isdecimal() or int(start) in schedule:
            raise UserError(
                f"--schedule {text}: give token:bitmap pairs, each token once, like 0:8,32:4; write a bitmap with "
                f"commas to a file and give @file.json"
            )
        schedule[int(start)] = bitmap
    if 0 not in schedule:
        raise UserError(f"--schedule {text} does not say where to start: give a bitmap for token 0, like 0:8,32:4")
    return schedule


def read_schedule(text: str, names: tuple[str, ...]) -> dict[int, Bitmap]:
    """`0:8,32:4` as {token: bitmap}: which bitmap the model runs at from which generated token on.

    Raises:
        UserError: not of this form (see `split_schedule`), or a bitmap that layers of these names cannot have.
    """
    return {start: Bitmap.parse(bitmap, names) for start, bitmap in split_schedule(text).items()}


@dataclass(frozen=True)
class Spoken:
    """What a stream came to.

    Attributes:
        text: the generated text.
        tokens: tokens generated.
        first_seconds: time to the first token, reading the prompt.
        seconds: all of the time.
    """

    text: str
    tokens: int
    first_seconds: float
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first, per second."""
        return (self.tokens - 1) / (self.seconds - self.first_seconds) if self.tokens > 1 else 0.0


class _Switching(StoppingCriteria):
    """Looks on after each token: notes the time, and sets the next token's bitmap."""

    def __init__(self, lm: SwitchableLM, schedule: Mapping[int, Bitmap]) -> None:
        self.lm, self.schedule, self.times = lm, schedule, [perf_counter()]

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Any:
        self.times.append(perf_counter())
        bitmap = self.schedule.get(len(self.times) - 1)
        if bitmap is not None:
            self.lm.set_bitmap(bitmap)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def stream(
    lm: SwitchableLM,
    prompt: str,
    schedule: Mapping[int, Bitmap],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 50,
    seed: int = 0,
    show: bool = True,
) -> Spoken:
    """Continue a prompt.

    Args:
        lm: the model; its bitmap is left at the last one that ran.
        prompt: text.
        schedule: token -> bitmap from that generated token on; all bitmaps are prepared before the clock runs.
        max_new_tokens: most tokens to generate.
        temperature: 0 takes the likeliest token.
        top_k: sample among so many.
        seed: of the sampling.
        show: print the text on stdout as it comes.

    Raises:
        UserError: an empty prompt, or one that leaves no room in the context window.
    """
    tokenizer, room = lm.tokenizer, context_window(lm.model)
    inputs = tokenizer(prompt, return_tensors="pt")
    length = inputs.input_ids.shape[1]
    if not length:
        raise UserError("the prompt is empty")
    if length + max_new_tokens > room:
        raise UserError(f"{length} prompt tokens and {max_new_tokens} new ones do not fit the model's window of {room}")
    for bitmap in [*schedule.values(), schedule[0]]:
        lm.set_bitmap(bitmap)
    sampling = {"do_sample": True, "temperature": max(temperature, COLDEST), "top_k": top_k}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(sampling if temperature else {"do_sample": False}),
    )
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if show else None
    devices = [lm.model.device] if lm.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), own_generation_config(lm.model, config):
        torch.manual_seed(seed)
        if lm.decoder is not None:
            ids = inputs.input_ids.to(lm.model.device)
            tokens = lm.decoder.tokens(
                ids, new_tokens=max_new_tokens, schedule=schedule, temperature=temperature, top_k=top_k
            )
            new, times = _listen(tokens, ids, streamer, tokenizer.eos_token_id)
        else:
            switching = _Switching(lm, schedule)
            output_BT = lm.generate(
                **inputs.to(lm.model.device),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([switching]),
                streamer=streamer,
            )
            new, times = output_BT[0, length:].tolist(), switching.times
    text = str(tokenizer.decode(new, skip_special_tokens=True))
    return Spoken(text, len(new), times[1] - times[0], times[-1] - times[0])


def _listen(
    tokens: Iterator[Tensor], prompt_1T: Tensor, streamer: TextStreamer | None, last: int | None
) -> tuple[list[int], list[float]]:
    """The tokens of one row up to `last`, shown as they come, and the time before the first and after each."""
    new, times = [], [perf_counter()]
    if streamer is not None:
        streamer.put(prompt_1T.cpu())
    for token_1 in tokens:
        new.append(int(token_1))
        times.append(perf_counter())
        if streamer is not None:
            streamer.put(token_1.cpu())
        if new[-1] == last:
            break
    if streamer is not None:
        streamer.end()
    return new, times


def uniform(lm: SwitchableLM, bitmap: Bitmap | str | int) -> dict[int, Bitmap]:
    """The schedule that runs at one bitmap."""
    return {0: Bitmap.parse(bitmap, get_switch(lm.model).names)}
