"""What an artifact costs on this machine: each bitmap, and the same model unquantised, in a process of its own.

The unquantised model is plain `transformers`, in float32 on a CPU and in float16 on a GPU. Memory is on a GPU the most
that PyTorch had allocated there, on a CPU the most that the process held in RAM, less what it held before it loaded
the model: pages of mapped files count as soon as they are read. A decoded token is timed as the slope between a short
and a long generation, so that reading the prompt is not in it.
"""

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from switchq.evaluation.memory import MB, peak_memory
from switchq.inference.model import SwitchableLM
from switchq.inference.source import Prefer
from switchq.inference.steps.decoder import Decoder
from switchq.models import load_config, pick_device

FLOAT = ("float32", "float16")
"""What the reference is called where the others have a bitmap, on a CPU and on a GPU."""


SLOWER = "On this machine a product at {bits} bits alone takes {factor:.1f} times as long as in float32"
"""What is told of `SwitchableLM.slower_than_float32`: of products, whatever the rest of a step gains."""


@dataclass(frozen=True)
class Speed:
    """What one bitmap cost.

    Attributes:
        bitmap: as it was written, or one of `FLOAT`.
        tokens_per_s: decoded tokens per second, of all sequences together; None where they took no longer than the
            first token, which is too short to time.
        first_token_ms: time to the first token of the prompt.
        memory_mb: peak memory of loading and running, above the program itself.
        read_mb: tensors read from the artifact.
        load_s: seconds to load.
        slower: see `SwitchableLM.slower_than_float32`.
    """

    bitmap: str
    tokens_per_s: float | None
    first_token_ms: float
    memory_mb: float
    read_mb: float
    load_s: float
    slower: Mapping[int, float] = field(default_factory=dict)


def bench(folder: str | Path, bitmap: str, *, threads: int | None, **options: Any) -> Speed:
    """`measure` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_in_child, (str(folder), bitmap, threads, options))


def _in_child(folder: str, bitmap: str, threads: int | None, options: dict[str, Any]) -> Speed:
    from transformers.utils import logging

    logging.set_verbosity_error()
    if threads is not None:
        torch.set_num_threads(threads)
    return measure(folder, bitmap, **options)


def measure(
    folder: str | Path,
    bitmap: str,
    *,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    batch: int = 1,
    device: str = "cpu",
    prefer: Prefer = "speed",
) -> Speed:
    """Load an artifact at a bitmap, or its shapes as a plain model with random weights, and time it.

    Args:
        folder: the artifact.
        bitmap: what to run at, or one of `FLOAT`.
        prompt_tokens: length of the prompt, of random tokens.
        new_tokens: tokens to generate.
        repeats: times that all is repeated; the fastest counts.
        batch: sequences at once.
        device: where to run.
        prefer: see `SwitchableLM.from_pretrained`.

    Raises:
        UserError: an artifact that cannot be read, a bitmap that it does not hold, a device that is not there.
    """
    with torch.device("meta"):  # all code is loaded before the count
        AutoModelForCausalLM.from_config(load_config(str(folder)))
    place = pick_device(device)
    before, began = _resident(), perf_counter()
    lm = None
    if bitmap in FLOAT:
        with place:
            model = AutoModelForCausalLM.from_config(load_config(str(folder)), dtype=getattr(torch, bitmap)).eval()
    else:
        lm = SwitchableLM.from_pretrained(folder, bitmap, device=place, prefer=prefer)
        model = lm.model
    _wait(place.type)
    load_s = perf_counter() - began
    generator = torch.Generator().manual_seed(0)
    ids_NT = torch.randint(0, model.config.vocab_size, (batch, prompt_tokens), generator=generator).to(place)
    decoder = lm.decoder if lm is not None else None
    _generate(model, decoder, ids_NT, min(3, 1 + new_tokens))
    first, last = float("inf"), float("inf")
    for _ in range(repeats):
        short, whole = (_generate(model, decoder, ids_NT, tokens) for tokens in (1, 1 + new_tokens))
        first, last = min(first, short), min(last, whole)
    peak = torch.cuda.max_memory_allocated() if place.type == "cuda" else _peak() - before
    return Speed(
        bitmap=bitmap,
        tokens_per_s=batch * new_tokens / (last - first) if last > first else None,
        first_token_ms=first * 1e3,
        memory_mb=peak / MB,
        read_mb=lm.bytes_read / MB if lm is not None else 0.0,
        load_s=load_s,
        slower=lm.slower_than_float32() if lm is not None else {},
    )


def _generate(model: Any, decoder: Decoder | None, ids_NT: torch.Tensor, tokens: int) -> float:
    _wait(ids_NT.device.type)
    began = perf_counter()
    if decoder is not None:
        for _ in decoder.tokens(ids_NT, new_tokens=tokens):
            pass
    else:
        model.generate(
            ids_NT,
            attention_mask=torch.ones_like(ids_NT),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
    _wait(ids_NT.device.type)
    return perf_counter() - began


def _wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _resident() -> float:
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(key: str) -> float:
    """Bytes that Linux states under `key` for this process; elsewhere the peak of the whole process."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return peak_memory(torch.device("cpu"))[0] * MB
