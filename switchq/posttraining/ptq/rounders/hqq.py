"""HQQ, half-quadratic quantisation (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog), without calibration.

The zero point z (and the scale s) of each group are those that make the p-norm of the rounding error small, p < 1, so
that a few large errors are let be for the sake of the many. With an auxiliary error e, from the absmax range on:

    q = round(w / s + z)                                    nearest codes
    e = shrink(w - s (q - z))                               sign(d) max(0, |d| - |d|^(p-1) / beta)
    z = mean(q - (w - e) / s)                               over the group

The zero point is a real number, stored in 16 bits. On grids without one, and with `scale`, the scale is fitted instead
(too): s = <l, w - e> / <l, l>, with l the level at scale 1. All is as in the authors' package, hqq 0.2.8: beta stays as
it is (the text lets it grow by 1 % an iteration); the first zero point is an integer at 4 bits and -min(w) / s at other
widths; it ends after the iteration whose codes no longer lower the mean |w - s (q - z)| of the whole matrix. Only
scales and zero points of 16 bits set the results apart, where the package's are as wide as its arithmetic. The last
zero point makes the mean error of its group all but zero, so it is kept as its distance to the middle code, which is
small and loses little in 16 bits; the point itself would lose enough to shift whole groups.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Asymmetric, Grid, Params
from switchq.quant.grid import stored_scale


@dataclass(frozen=True)
class Hqq(LinearRounder):
    """Half-quadratic search of the grid's parameters.

    Args:
        norm: p.
        beta: how sharply small errors are shrunk away.
        iterations: how many at most.
        scale: fit the scale too where there is a zero point.
        round_zero: begin with an integer zero point; None: at 4 bits only.

    Raises:
        UserError: a number out of range.
    """

    whole_zeros: ClassVar[bool] = False

    norm: float = 0.7
    beta: float = 10.0
    iterations: int = 20
    scale: bool = False
    round_zero: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.norm <= 1 or self.beta <= 0 or self.iterations < 0:
            raise UserError("hqq: norm is above 0 and at most 1, beta is above 0, iterations not below")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Iterate, then encode with the last parameters."""
        zeroed = isinstance(grid, Asymmetric)
        outputs, inputs = weight_OI.shape
        groups = grid.groups(inputs)
        weight_OGS = weight_OI.reshape(outputs, groups, -1)
        params = {name: value.unsqueeze(-1) for name, value in grid.fit(weight_OI, bits).items()}
        if zeroed and not (bits == 4 if self.round_zero is None else self.round_zero):
            params["zero"] = _real_zero(weight_OGS, bits)
        least = math.inf
        for _ in range(self.iterations):
            codes_OGS = _encode(weight_OGS, params, grid, bits)
            off_OGS = weight_OGS - grid.decode_groups(codes_OGS, params)
            params = self._fitted(weight_OGS - self._shrink(off_OGS), codes_OGS, params, grid, zeroed)
            mean = float(off_OGS.abs().mean())
            if mean >= least:
                break
            least = mean
        params |= {"scale": stored_scale(params["scale"])}
        if zeroed:
            middle = 2 ** (bits - 1)
            params |= {"zero": middle + (params["zero"] - middle).half().float()}
        codes_OI = _encode(weight_OGS, params, grid, bits).reshape(weight_OI.shape).to(torch.int16)
        overhead = outputs * groups * 32 if zeroed else None  # a 16-bit scale and a 16-bit zero point
        return Rounded(codes_OI, {name: value.squeeze(-1) for name, value in params.items()}, grid, bits, overhead)

    def _fitted(self, target_OGS: Tensor, codes_OGS: Tensor, params: Params, grid: Grid, zeroed: bool) -> Params:
        if zeroed:
            params = params | {"zero": (codes_OGS - target_OGS / params["scale"]).mean(-1, keepdim=True)}
        if self.scale or not zeroed:
            level_OGS = grid.decode_groups(codes_OGS, params | {"scale": torch.ones_like(params["scale"])})
            square = level_OGS.square().sum(-1, keepdim=True)
            scale = (level_OGS * target_OGS).sum(-1, keepdim=True) / square
            params = params | {"scale": torch.where(scale > 0, scale, params["scale"])}
        return params

    def _shrink(self, error_OGS: Tensor) -> Tensor:
        size = error_OGS.abs()
        return error_OGS.sign() * torch.relu(size - size.clamp(min=1e-30).pow(self.norm - 1) / self.beta)


def _real_zero(weight_OGS: Tensor, bits: int) -> Tensor:
    """The code (O, G, 1), any real number, that stands for 0 when the range of each group, 0 included, is covered."""
    low = weight_OGS.amin(-1, keepdim=True).clamp(max=0)
    width = weight_OGS.amax(-1, keepdim=True).clamp(min=0) - low
    return torch.where(width > 0, -low * (2**bits - 1) / width, 0)


def _encode(weight_OGS: Tensor, params: Params, grid: Grid, bits: int) -> Tensor:
    """Nearest codes, where the zero point need not be an integer."""
    if "zero" not in params:
        return grid.encode_groups(weight_OGS, params, bits)
    return (weight_OGS / params["scale"] + params["zero"]).round().clamp(0, 2**bits - 1)
