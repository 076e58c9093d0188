"""What this machine is fast at: measured once for each kind of kernel and shape, and kept in a file.

    ~/.cache/switchq/kernels.json      (or under XDG_CACHE_HOME)

A timing is the shortest of a few calls, which other work on the machine disturbs least, in microseconds. The kernel
and float32's product are timed on one token and on a long input, from which follows the number of tokens from which
decoding the weight first is faster.
"""

import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.errors import UserError
from switchq.files import write_json
from switchq.inference.kernels import KERNELS, Kernel
from switchq.words import count_of

LONG = 256
"""Tokens of the long input that is timed."""

SHORTEST = 16
"""Fewest tokens for which decoding first is thought of."""


@dataclass(frozen=True)
class Timing:
    """Microseconds of a product.

    Attributes:
        kernel: the kernel, one token.
        dense: float32, one token.
        kernel_long: the kernel, `LONG` tokens.
        dense_long: float32, `LONG` tokens.
        decode: decoding the weight to float32.
    """

    kernel: float
    dense: float
    kernel_long: float
    dense_long: float
    decode: float

    @property
    def tokens_to_decode(self) -> int | None:
        """Tokens from which decoding the weight and multiplying in float32 is faster than the kernel."""
        gain = (self.kernel_long - self.dense_long) / LONG
        return None if gain <= 0 or self.decode / gain > 1e6 else max(SHORTEST, round(self.decode / gain))


def timing(key: str, kernel: Kernel, decode: Callable[[], Tensor]) -> Timing:
    """The timing of a kernel on this machine: measured if neither this process nor the file has it.

    Args:
        key: its kind, width and shape.
        kernel: the packed weight.
        decode: gives the same weight (O, I) as float32, from what is kept of it for long inputs.
    """
    known = _known()
    if key not in known:
        known[key] = _measure(kernel, decode)
        _keep(known)
    return known[key]


@torch.inference_mode()
def _measure(kernel: Kernel, decode: Callable[[], Tensor]) -> Timing:
    weight_OI = decode()
    one_NI, long_NI = (torch.ones(tokens, weight_OI.shape[1]) for tokens in (1, LONG))
    return Timing(
        kernel=_microseconds(lambda: kernel.product(one_NI), 15),
        dense=_microseconds(lambda: F.linear(one_NI, weight_OI), 15),
        kernel_long=_microseconds(lambda: kernel.product(long_NI), 5),
        dense_long=_microseconds(lambda: F.linear(long_NI, weight_OI), 5),
        decode=_microseconds(decode, 5),
    )


def _microseconds(call: Callable[[], object], times: int) -> float:
    call()
    seconds = []
    for _ in range(times):
        began = perf_counter()
        call()
        seconds.append(perf_counter() - began)
    return round(min(seconds) * 1e6, 1)


_TIMINGS: dict[str, dict[str, Timing]] = {}
"""What this process knows, by machine."""


def _known() -> dict[str, Timing]:
    here = machine()
    if here not in _TIMINGS:
        try:
            stored = json.loads(_file().read_text(encoding="utf-8"))[here]
            _TIMINGS[here] = {key: Timing(**value) for key, value in stored.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            _TIMINGS[here] = {}
    return _TIMINGS[here]


def _keep(known: dict[str, Timing]) -> None:
    """Write what is known; a cache that cannot be written is measured again next time."""
    try:
        stored = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    others = stored if isinstance(stored, dict) else {}
    with suppress(UserError):
        write_json(_file(), {**others, machine(): {key: asdict(value) for key, value in known.items()}})


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "switchq" / "kernels.json"


def machine() -> str:
    """Processor, threads, PyTorch and kernels: what timings hold for."""
    return (
        f"{_processor()}, {count_of(torch.get_num_threads(), 'thread')}, torch {torch.__version__}, kernels {KERNELS}"
    )


@cache
def _processor() -> str:
    try:
        pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
        said = {name.strip(): value.strip() for name, _, value in pairs}
        return f"{said['model name']} model {said['model']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
