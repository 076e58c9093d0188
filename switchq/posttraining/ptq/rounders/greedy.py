"""Greedy rounding: flip some roundings of each row so that the row's mean output error goes to zero.

Nearest rounding leaves output row o with the mean error e_o = E[x] . (w_o - q_o) over the inputs x. To flip a rounding
is to move the weight to the level on its other side, which takes E[x_i] (q'_i - q_i) off e_o. Per row, of the flips
that take e_o towards zero,

    1. those are sorted by rounding cost |w_i - q_i| / |q'_i - q_i|, largest first: a weight halfway between two levels
       costs nothing to flip,
    2. the first k are made, k >= 0 such that |e_o - sum of their effects| is least.

So |e_o| never grows. The channels with the largest |E[x]| never flip: one of them would outweigh all others. Where the
weight is rounded in other coordinates, x is the input that the rounded weight is multiplied with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.quant import Grid


@dataclass(frozen=True)
class Greedy(LinearRounder):
    """Nearest rounding with flips.

    Args:
        outliers: share of the channels, those with the largest |E[x]|, that never flip.

    Raises:
        UserError: a share that is none.
    """

    outliers: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.outliers <= 1:
            raise UserError(f"greedy rounding: a share of outliers is between 0 and 1, not {self.outliers}")

    def needs(self) -> Needs:
        """The mean input."""
        return Needs.of("mean")

    def in_search(self) -> LinearRounder:
        """Itself: searches see the flips."""
        return self

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Round to nearest, then flip."""
        mean_I = statistics["mean"]
        rounded = Nearest().round(weight_OI, grid, bits, statistics)
        codes_OI, params = rounded.codes_OI, rounded.params
        error_OI = weight_OI - rounded.weight()
        flipped_OI = codes_OI + torch.where(error_OI >= 0, 1, -1).to(codes_OI.dtype)
        value_OI = grid.decode(flipped_OI, params)
        step_OI = value_OI - rounded.weight()
        on_grid_OI = grid.encode(value_OI, params, bits) == flipped_OI
        mean_error_O = error_OI @ mean_I
        effect_OI = mean_I * step_OI
        useful_OI = on_grid_OI & (effect_OI * mean_error_O[:, None] > 0)
        useful_OI[:, mean_I.abs().topk(int(self.outliers * len(mean_I))).indices] = False
        cost_OI = torch.where(useful_OI, error_OI.abs() / step_OI.abs(), -1)
        order_OI = cost_OI.argsort(dim=-1, descending=True, stable=True)
        effects_OI = torch.where(useful_OI, effect_OI, 0).gather(1, order_OI)
        left_OK = mean_error_O[:, None] - torch.cat([torch.zeros_like(effects_OI[:, :1]), effects_OI.cumsum(1)], 1)
        count_O = left_OK.abs().argmin(1)
        first_OI = torch.arange(len(mean_I), device=order_OI.device) < count_O[:, None]
        flip_OI = torch.zeros_like(useful_OI).scatter(1, order_OI, first_OI) & useful_OI
        return Rounded(torch.where(flip_OI, flipped_OI, codes_OI), params, grid, bits)
