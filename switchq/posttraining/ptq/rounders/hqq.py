"""HQQ, half-quadratic quantisation (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog), without calibration.

The zero point z (and the scale s) of each group are those that make the p-norm of the rounding error small, p < 1, so
that a few large errors are let be for the sake of the many. With an auxiliary error e, from the absmax range on:

    q = round(w / s + z)                                    nearest codes
    e = shrink(w - s (q - z))                               sign(d) max(0, |d| - |d|^(p-1) / beta)
    z = mean(q - (w - e) / s),    beta = kappa beta         over the group

The zero point is a real number, stored in 16 bits. On grids without one, and with `scale`, the scale is fitted instead
(too): s = <l, w - e> / <l, l>, with l the level at scale 1. As in the authors' package, it ends when the mean
|w - s (q - z)| of the whole matrix no longer falls, and all groups keep the iteration before.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import Rounded, Rounder
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Asymmetric, Grid, Params
from switchq.quant.grid import stored_scale


@dataclass(frozen=True)
class Hqq(Rounder):
    """Half-quadratic search of the grid's parameters.

    Args:
        norm: p.
        beta: the first beta.
        kappa: what beta is multiplied with after each iteration.
        iterations: how many.
        scale: fit the scale too where there is a zero point.

    Raises:
        UserError: a number out of range.
    """

    norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    iterations: int = 20
    scale: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.norm <= 1 or self.beta <= 0 or self.kappa <= 0 or self.iterations < 0:
            raise UserError("hqq: norm is above 0 and at most 1, beta and kappa are above 0, iterations not below")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Iterate, then encode with the best parameters."""
        zeroed = isinstance(grid, Asymmetric)
        outputs, inputs = weight_OI.shape
        groups = grid.groups(inputs)
        weight_OGS = weight_OI.reshape(outputs, groups, -1)
        params = {name: value.unsqueeze(-1) for name, value in grid.fit(weight_OI, bits).items()}
        beta = self.beta
        best, least = params, math.inf
        for _ in range(self.iterations + 1):
            codes_OGS = _encode(weight_OGS, params, grid, bits)
            off_OGS = weight_OGS - grid.decode_groups(codes_OGS, params)
            mean = float(off_OGS.abs().mean())
            if mean >= least:
                break
            best, least = params, mean
            params = self._fitted(weight_OGS - self._shrink(off_OGS, beta), codes_OGS, params, grid, zeroed)
            beta *= self.kappa
        codes_OI = _encode(weight_OGS, best, grid, bits).reshape(weight_OI.shape).to(torch.int16)
        overhead = outputs * groups * 32 if zeroed else None  # a 16-bit scale and a 16-bit zero point
        return Rounded(codes_OI, {name: value.squeeze(-1) for name, value in best.items()}, grid, bits, overhead)

    def _fitted(self, target_OGS: Tensor, codes_OGS: Tensor, params: Params, grid: Grid, zeroed: bool) -> Params:
        if zeroed:
            zero = (codes_OGS - target_OGS / params["scale"]).mean(-1, keepdim=True)
            params = params | {"zero": zero.half().float()}
        if self.scale or not zeroed:
            level_OGS = grid.decode_groups(codes_OGS, params | {"scale": torch.ones_like(params["scale"])})
            square = level_OGS.square().sum(-1, keepdim=True)
            scale = (level_OGS * target_OGS).sum(-1, keepdim=True) / square
            params = params | {"scale": torch.where(scale > 0, stored_scale(scale), params["scale"])}
        return params

    def _shrink(self, error_OGS: Tensor, beta: float) -> Tensor:
        size = error_OGS.abs()
        return error_OGS.sign() * torch.relu(size - size.clamp(min=1e-30).pow(self.norm - 1) / beta)


def _encode(weight_OGS: Tensor, params: Params, grid: Grid, bits: int) -> Tensor:
    """Nearest codes, where the zero point need not be an integer."""
    if "zero" not in params:
        return grid.encode_groups(weight_OGS, params, bits)
    return (weight_OGS / params["scale"] + params["zero"]).round().clamp(0, 2**bits - 1)
