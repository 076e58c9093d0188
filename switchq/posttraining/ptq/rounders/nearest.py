"""Rounding to nearest: q = argmin over the group's levels of |w - level|, no statistics, no calibration."""

from dataclasses import dataclass

from torch import Tensor

from switchq.bitmap import check_width
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Grid


@dataclass(frozen=True)
class Nearest(LinearRounder):
    """Each weight on its own, on the grid as the grid fits itself.

    Args:
        bits: the width, whatever the setting says; None takes the setting's.

    Raises:
        UserError: a width that is none.
    """

    bits: int | None = None

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_width(self.bits, full=False)

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Fit the grid, then encode."""
        bits = self.bits or bits
        params = grid.fit(weight_OI, bits)
        return Rounded(grid.encode(weight_OI, params, bits), params, grid, bits)
