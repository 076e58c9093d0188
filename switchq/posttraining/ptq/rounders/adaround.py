"""AdaRound (Nagel et al. 2020, arXiv:2004.10568): up or down is learned, weight by weight, from the layer's output.

Between the levels below and above each weight, W~ = low + h(V) (up - low) with the rectified sigmoid

    h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)        zeta = 1.1, gamma = -0.1

V is trained by Adam, from the value where W~ = W, on

    E|(W - W~) x|^2 + lambda sum(1 - |2 h(V) - 1|^beta)

where the second term, off during a warm-up, drives h to 0 or 1: beta falls from 20 to 2 along half a cosine, at first
moving only what is all but decided. The expectation is exact: E|d x|^2 = d G d^T with G = E[x x^T], of the inputs that
earlier rounded layers give. Each row's error is taken relative to that of nearest rounding, per weight, so that lambda
means the same in every layer. At the end h >= 1/2 rounds up; a row that is no better than rounded to nearest is rounded
to nearest, so no row is ever worse than that. The levels' scales stay as the grid fits them.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.quant import Grid

ZETA, GAMMA = 1.1, -0.1


@dataclass(frozen=True)
class AdaRound(LinearRounder):
    """Learned rounding.

    Args:
        iterations: steps of Adam; the time taken is proportional to it.
        rate: its learning rate.
        weight: lambda.
        warm: share of the iterations without the second term.
        first: beta where it starts.
        last: beta at the end.

    Raises:
        UserError: a number out of range.
    """

    sequential: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = True

    iterations: int = 300
    rate: float = 0.05
    weight: float = 10.0
    warm: float = 0.2
    first: float = 20.0
    last: float = 2.0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.rate <= 0 or self.weight < 0 or not 0 <= self.warm < 1:
            raise UserError("adaround: iterations are 1 or more, rate above 0, weight not below 0, warm 0 to below 1")
        if not 1 < self.last <= self.first:
            raise UserError("adaround: beta falls from first to last, which is above 1")

    def needs(self) -> Needs:
        """The Gram matrix."""
        return Needs.of("gram")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Train, then round."""
        gram_II = statistics["gram"]
        params = grid.fit(weight_OI, bits)
        nearest_OI = grid.encode(weight_OI, params, bits)
        value_OI = grid.decode(nearest_OI, params)
        low_OI = nearest_OI - (value_OI > weight_OI).to(nearest_OI.dtype)
        low_OI = grid.encode(grid.decode(low_OI, params), params, bits)
        up_OI = grid.encode(grid.decode(low_OI + 1, params), params, bits)  # the same as low at the end of the range
        base_OI = grid.decode(low_OI, params)
        step_OI = grid.decode(up_OI, params) - base_OI
        least_O = _row_error(weight_OI - value_OI, gram_II)
        up = self._learned(weight_OI - base_OI, step_OI, gram_II, least_O)
        learned_OI = torch.where(up, up_OI, low_OI)
        better_O = _row_error(weight_OI - grid.decode(learned_OI, params), gram_II) < least_O
        return Rounded(torch.where(better_O[:, None], learned_OI, nearest_OI), params, grid, bits)

    def _learned(self, above_OI: Tensor, step_OI: Tensor, gram_II: Tensor, least_O: Tensor) -> Tensor:
        """Whether to round up, given how far each weight lies above its lower level."""
        above_OI, step_OI = above_OI.contiguous(), step_OI.contiguous()  # fused Adam reads V and its gradient alike
        share_OI = torch.where(step_OI > 0, above_OI / step_OI, 0).clamp(0, 1)
        value_OI = torch.logit((share_OI - GAMMA) / (ZETA - GAMMA))
        scale_O = torch.where(least_O > 0, above_OI.shape[1] / least_O, 0)
        optimiser = torch.optim.Adam([value_OI], lr=self.rate, fused=True)
        for iteration in range(self.iterations):
            value_OI.grad = self.gradient(value_OI, above_OI, step_OI, gram_II, scale_O, self._beta(iteration))
            optimiser.step()
        return value_OI >= 0  # h is 1/2 where V is 0

    def gradient(
        self, value_OI: Tensor, above_OI: Tensor, step_OI: Tensor, gram_II: Tensor, scale_O: Tensor, beta: float | None
    ) -> Tensor:
        """The derivative of the objective by V; without a beta, of its first term."""
        sigmoid_OI = torch.sigmoid(value_OI)
        soft_OI = sigmoid_OI * (ZETA - GAMMA) + GAMMA
        inside_OI = (soft_OI > 0) & (soft_OI < 1)
        soft_OI = soft_OI.clamp(0, 1)
        error_OI = soft_OI * step_OI - above_OI
        slope_OI = (error_OI @ gram_II) * step_OI * (2 * scale_O[:, None])
        if beta is not None:
            off_OI = 2 * soft_OI - 1
            slope_OI -= self.weight * 2 * beta * off_OI.sign() * off_OI.abs().pow(beta - 1)
        return slope_OI * sigmoid_OI * (1 - sigmoid_OI) * (ZETA - GAMMA) * inside_OI

    def _beta(self, iteration: int) -> float | None:
        done = (iteration / self.iterations - self.warm) / (1 - self.warm)
        return None if done < 0 else self.last + (self.first - self.last) * (1 + math.cos(math.pi * done)) / 2


def _row_error(error_OI: Tensor, gram_II: Tensor) -> Tensor:
    return ((error_OI @ gram_II) * error_OI).sum(1)
