"""`set_bitmap` over all layers of a model: how long a switch takes, and that it allocates nothing of a weight's size.

python tests/bench/bench_switch.py --device cpu
"""

import itertools
import sys
import tracemalloc

import torch
from sidebyside import parser, prepare, report, side_by_side
from subjects import SHAPES, quiet
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from switchq.bitmap import Bitmap, ladder
from switchq.models import make_switchable
from switchq.nn import get_switch, set_bitmap

LIMIT_SECONDS = 200e-6
SWITCHES = 200
"""Switches a timed call: one alone is too short for a clock."""


class NoOperations(TorchDispatchMode):
    """Refuses every tensor operation: where none runs, none allocates."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise AssertionError(f"a switch must not compute, but it called {func}")


def main(argv: list[str] | None = None) -> float:
    """Measure, print and write; returns the median seconds of a switch."""
    options = parser(__doc__)
    options.add_argument(
        "--shapes", choices=sorted(SHAPES), default="gpt2", help="of the model; its weights are random"
    )
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    model = make_switchable(AutoModelForCausalLM.from_config(SHAPES[arguments.shapes])).to(arguments.device)
    layers = get_switch(model).names
    bitmaps = [Bitmap.parse(rung, layers) for rung in (*ladder([8, 4, 2]), "16")]
    peak = allocated(model, bitmaps)
    cycle = itertools.cycle(bitmaps)

    def switches() -> None:
        for _ in range(SWITCHES):
            set_bitmap(model, next(cycle))

    name = f"set_bitmap, {len(layers)} layers"
    rows = side_by_side({name: switches}, arguments.rounds, shares={name: SWITCHES}, clock=arguments.clock)
    seconds = rows[0].seconds
    verdict = "met" if seconds <= LIMIT_SECONDS else "MISSED"
    report(
        f"Switching: {arguments.shapes}",
        rows,
        arguments,
        median_microseconds=round(seconds * 1e6, 1),
        target=f"<= {LIMIT_SECONDS * 1e6:.0f} microseconds {verdict}",
        tensor_operations=0,
        python_bytes_at_the_peak=peak,
    )
    return seconds


def allocated(model: PreTrainedModel, bitmaps: list[Bitmap]) -> int:
    """Most bytes that Python holds more during switches; fails if a tensor is made, on whatever device."""
    for bitmap in bitmaps:
        set_bitmap(model, bitmap)
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0) if torch.cuda.is_available() else 0
    tracemalloc.start()
    with NoOperations():
        for bitmap in bitmaps:
            set_bitmap(model, bitmap)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    after = torch.cuda.memory_stats().get("allocation.all.allocated", 0) if torch.cuda.is_available() else 0
    assert after == before, f"switches allocated {after - before} blocks on the GPU"
    return peak


if __name__ == "__main__":
    sys.exit(0 if main() <= LIMIT_SECONDS else 1)
