"""Rounding to nearest: q = argmin over the group's levels of |w - level|, no statistics, no calibration."""

from dataclasses import dataclass

from torch import Tensor

from switchq.posttraining.ptq.rounder import Rounded, Rounder
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Grid


@dataclass(frozen=True)
class Nearest(Rounder):
    """Each weight on its own, on the grid as the grid fits itself."""

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Fit the grid, then encode."""
        params = grid.fit(weight_OI, bits)
        return Rounded(grid.encode(weight_OI, params, bits), params, grid, bits)
