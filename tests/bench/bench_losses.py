"""The losses of a pass over a large vocabulary, with labels and a teacher: part by part, and all positions at once.

python tests/bench/bench_losses.py --device cpu --threads 1 --clock cpu
"""

import sys
from collections.abc import Callable
from unittest import mock

import torch
from sidebyside import Row, parser, prepare, report, side_by_side
from torch import Tensor

from switchq.evaluation.memory import peak_memory, reset_peak_memory
from switchq.training import losses
from switchq.training.losses import cross_entropy, distillation

NAMES = ("all at once", "part by part")


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument("--positions", type=int, default=4096)
    options.add_argument("--vocabulary", type=int, default=49152)
    options.add_argument("--numbers", type=int, default=losses.NUMBERS, help="logits in a part")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the logits")
    arguments = options.parse_args(argv)
    prepare(arguments)
    device = torch.device(arguments.device)
    shape = (arguments.positions, arguments.vocabulary)
    student_NV, teacher_NV = torch.randn(2, *shape, dtype=getattr(torch, arguments.dtype), device=device)
    targets_N = torch.randint(arguments.vocabulary, shape[:1], device=device)
    student_NV.requires_grad_()
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def call(name: str, numbers: int) -> Callable[[], None]:
        def gradient() -> None:
            with mock.patch.object(losses, "NUMBERS", numbers):
                loss = cross_entropy(student_NV, targets_N) + distillation(student_NV, teacher_NV)
                found[name] = loss.detach(), *torch.autograd.grad(loss * len(targets_N), student_NV)

        return gradient

    numbers = dict(zip(NAMES, (student_NV.numel(), arguments.numbers), strict=True))
    calls = {name: call(name, numbers[name]) for name in NAMES}
    peaks = {name: _peak(calls[name], device) for name in reversed(NAMES)}  # where a peak cannot be reset, it grows
    torch.testing.assert_close(found[NAMES[1]], found[NAMES[0]], rtol=16 * torch.finfo(student_NV.dtype).eps, atol=1e-8)
    rows = side_by_side(calls, arguments.rounds, clock=arguments.clock, warmup=0)
    report(f"Loss and gradient, {shape[0]:,} x {shape[1]:,} {arguments.dtype} logits", rows, arguments, peak_mb=peaks)
    return rows


def _peak(call: Callable[[], None], device: torch.device) -> int:
    """MB that a call takes at most, beside what was there."""
    reset_peak_memory(device)
    before = peak_memory(device)[0]
    call()
    return round(peak_memory(device)[0] - before)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
