"""Rounding to nearest in ranges chosen by the output's error: AWQ's clipping (Lin et al. 2023, arXiv:2306.00978).

For each group of a row, with the error d = Q_shrink(w) - w over the group's inputs x_g alone, the range is narrowed to
the fraction of its absmax that makes

    E (d . x_g)^2 = d^T G_gg d        G_gg = E[x_g x_g^T], a diagonal block of the Gram matrix

least. The error is exact, so the inputs themselves are not needed. The paper leaves query and key out, because what
counts there is their product; here every linear is searched, since GPT-2's query, key and value are one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.quant import Grid


@dataclass(frozen=True)
class RangeSearch(LinearRounder):
    """Nearest rounding, ranges chosen by output error.

    Args:
        points: fractions to try.
        lowest: the ranges tried are 1 - i (1 - lowest) / points for i = 0 ... points - 1.

    Raises:
        UserError: a number out of range.
    """

    points: int = 10
    lowest: float = 0.5

    def __post_init__(self) -> None:
        if self.points < 1 or not 0 < self.lowest <= 1:
            raise UserError(f"range search: {self.points} points down to {self.lowest} are not a range")

    def needs(self) -> Needs:
        """The Gram matrix."""
        return Needs.of("gram")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Search, then encode."""
        groups = grid.groups(weight_OI.shape[1])
        gram_GGSS = statistics["gram"].reshape(groups, weight_OI.shape[1] // groups, groups, -1)
        gram_GSS = torch.stack([gram_GGSS[group, :, group] for group in range(groups)])

        def cost(error_OGS: Tensor) -> Tensor:
            seen_OGS = torch.einsum("ogs,gst->ogt", error_OGS, gram_GSS)
            return (seen_OGS * error_OGS).sum(-1, keepdim=True)

        shrinks = [1 - step * (1 - self.lowest) / self.points for step in range(self.points)]
        params = grid.search(weight_OI, bits, shrinks, cost)
        return Rounded(grid.encode(weight_OI, params, bits), params, grid, bits)
