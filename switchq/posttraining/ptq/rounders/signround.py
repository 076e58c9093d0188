"""SignRound (Cheng et al. 2023, arXiv:2309.05516), the algorithm of auto-round: rounding learned by signed descent.

All linears of a block are trained together. Each weight has an offset V that says which way it is rounded, each group
two factors alpha, beta that shrink its range (`switchq.quant.offset` has the equations); from V = 0, alpha = beta = 1,
which is nearest rounding, step t of n goes

    V -= r_t sign(dE/dV)      alpha, beta -= r_t sign(dE/d..), kept at 1 or less      r_t = (1 - t / n) / n

down the error E of the block's output on one batch after the other, in an order that is drawn anew each time through.
The steps add up to about a half, so V reaches the next level and no further. Batches differ, so what was best on its
own is not best on all: nearest rounding, the step with the least error on its batch, and the last are compared over all
of them at the end, and the best is taken.

Every weight is trained, so thousands of tokens are wanted, several times a linear's inputs: a few hundred are fitted
instead, at the cost of all other text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.models.block_ends import in_turn
from switchq.posttraining.ptq.blockwise import Block, BlockRounder
from switchq.posttraining.ptq.rounder import Rounded
from switchq.quant import Grid
from switchq.quant.offset import OffsetRounding


@dataclass(frozen=True)
class SignRound(BlockRounder):
    """Offsets and ranges learned from the block's output.

    Args:
        iterations: steps, of one calibration batch each; the time taken is proportional to it.
        rate: of the first step; None for 1 / iterations.

    Raises:
        UserError: a number out of range.
    """

    iterations: int = 200
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or (self.rate is not None and self.rate <= 0):
            raise UserError("signround: iterations are 1 or more, rate above 0")

    def round_block(self, block: Block, grid: Grid, bits: int, seed: int = 0) -> list[Rounded]:
        """Train, then round."""
        rounding = OffsetRounding(block.weights, grid, bits)
        candidates = [_copy(rounding.trained), self._train(block, rounding, seed), _copy(rounding.trained)]
        errors = torch.stack([_whole_error(block, rounding, candidate) for candidate in candidates])
        _put(rounding.trained, candidates[int(errors.argmin())])
        return [Rounded(codes_OI, params, grid, bits) for codes_OI, params in rounding.codes()]

    def _train(self, block: Block, rounding: OffsetRounding, seed: int) -> list[Tensor]:
        """Take all steps; returns the values whose batch had the least error."""
        rate, trained = self.rate or 1 / self.iterations, rounding.trained
        best, least = _copy(trained), torch.full((), torch.inf, device=trained[0].device)
        for step, index in zip(range(self.iterations), in_turn(len(block.batches), seed), strict=False):
            with torch.enable_grad():
                error = block.error(block.batches[index], rounding.weights())
            gradients = torch.autograd.grad(error, trained)
            with torch.no_grad():
                better = error < least  # stays on the device: nothing waits for it
                least = torch.where(better, error, least)
                best = [torch.where(better, value, kept) for value, kept in zip(trained, best, strict=True)]
                torch._foreach_add_(trained, torch._foreach_sign(gradients), alpha=-rate * (1 - step / self.iterations))
                for factor in trained[1::2]:
                    factor.clamp_(0, 1)
        return best


@torch.no_grad()
def _whole_error(block: Block, rounding: OffsetRounding, values: Sequence[Tensor]) -> Tensor:
    """The error over all tokens of all batches, with these values."""
    _put(rounding.trained, values)
    weights = rounding.weights()
    return torch.stack([block.error(batch, weights) * len(batch.real_N) for batch in block.batches]).sum()


def _copy(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in values]


@torch.no_grad()
def _put(trained: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(trained, values, strict=True):
        tensor.copy_(value)
