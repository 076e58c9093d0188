"""Rounding with a trainable offset in a trainable range (SignRound, Cheng et al. 2023, arXiv:2309.05516).

A group's range [low, high], widened to hold 0, shrinks to [alpha low, beta high], from which the grid makes a scale s
and, if it has one, a zero point z. An offset V, half a step at most, says which way a weight is rounded:

    q = clamp(round(w / s + V) + z)         v = s (q - z)

Rounding passes gradients straight through, with m = 1 where nothing is clamped and 0 elsewhere:

    dv/dV = s m        dv/ds = (v - m w) / s        dv/dz = -s (1 - m)

All weights that are rounded at once lie in one tensor (M, 1, S), their groups below each other, so that a step costs as
many operations for a block as for a linear; rows of different lengths, where a row is a group, take one tensor each.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.quant.grid import Grid, Params


class OffsetRounding:
    """Weights, and what is trained to round them: at first, to the nearest level of the whole range.

    Args:
        weights: (O, I) each, float32, on one device.
        grid: of integer levels, over the whole range (`absmax`).
        bits: the width of a code.

    Attributes:
        trained: offsets and range factors, which start at 0 and 1; they require gradients.

    Raises:
        UserError: another grid, a group size that does not divide a row.
    """

    def __init__(self, weights: Sequence[Tensor], grid: Grid, bits: int) -> None:
        if not grid.integer_levels or grid.scale != "absmax":
            raise UserError("trained offsets need integer levels over the whole range: a grid with scale absmax")
        self._shapes = [(len(weight_OI), grid.groups(weight_OI.shape[1]), -1) for weight_OI in weights]
        self._sizes = [
            weight_OI.shape[1] // groups for weight_OI, (_, groups, _) in zip(weights, self._shapes, strict=True)
        ]
        self._pools = {
            size: _Pool(torch.cat([one.reshape(-1, 1, size) for one in self._of(size, weights)]), grid, bits)
            for size in dict.fromkeys(self._sizes)
        }

    @property
    def trained(self) -> list[Tensor]:
        """See above: the offsets (M, 1, S) and the factors (M, 1, 2) of every tensor of groups."""
        return [tensor for pool in self._pools.values() for tensor in pool.trained]

    def weights(self) -> list[Tensor]:
        """The rounded weights (O, I), differentiable in `trained`."""
        return [value_OGS.flatten(1) for value_OGS in self._apart({n: one.rounded() for n, one in self._pools.items()})]

    @torch.no_grad()
    def codes(self) -> list[tuple[Tensor, Params]]:
        """The codes (O, I), int16, and the grid's parameters (O, G) of every weight."""
        found = {size: pool.codes() for size, pool in self._pools.items()}
        codes = self._apart({size: codes_M1S for size, (codes_M1S, _) in found.items()})
        names = next(iter(found.values()))[1]
        params = {name: self._apart({size: one[name] for size, (_, one) in found.items()}) for name in names}
        return [
            (codes_OGS.flatten(1), {name: values[index].flatten(1) for name, values in params.items()})
            for index, codes_OGS in enumerate(codes)
        ]

    def _of(self, size: int, weights: Sequence[Tensor]) -> list[Tensor]:
        return [one for one, own in zip(weights, self._sizes, strict=True) if own == size]

    def _apart(self, pooled: dict[int, Tensor]) -> list[Tensor]:
        """What lies in pools (M, 1, X), weight by weight, (O, G, X)."""
        parts = {
            size: iter(value.split([rows * groups for (rows, groups, _), own in self._laid if own == size]))
            for size, value in pooled.items()
        }
        return [next(parts[size]).reshape(shape) for shape, size in self._laid]

    @property
    def _laid(self) -> list[tuple[tuple[int, int, int], int]]:
        return list(zip(self._shapes, self._sizes, strict=True))


class _Pool:
    """Groups of one size (M, 1, S)."""

    def __init__(self, weight_M1S: Tensor, grid: Grid, bits: int) -> None:
        self.weight_M1S, self.grid, self.bits = weight_M1S, grid, bits
        low_M11, high_M11 = weight_M1S.amin(-1, keepdim=True), weight_M1S.amax(-1, keepdim=True)
        self.ends_M12 = torch.cat([low_M11.clamp(max=0), high_M11.clamp(min=0)], -1)
        self.trained = [torch.zeros_like(weight_M1S).requires_grad_(), torch.ones_like(self.ends_M12).requires_grad_()]

    def params(self) -> Params:
        """(M, 1, 1) each, differentiable in the factors."""
        return self.grid.range_params(self.ends_M12 * self.trained[1], self.bits, 1.0)

    def rounded(self) -> Tensor:
        params = self.params()
        rounded: Tensor = _Rounded.apply(
            self.weight_M1S, self.trained[0], params["scale"], params.get("zero"), self.grid, self.bits
        )
        return rounded

    def codes(self) -> tuple[Tensor, Params]:
        params = self.params()
        shifted_M1S = self.weight_M1S + self.trained[0] * params["scale"]
        return self.grid.encode_groups(shifted_M1S, params, self.bits).to(torch.int16), params


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight_M1S: Tensor,
        offset_M1S: Tensor,
        scale_M11: Tensor,
        zero_M11: Tensor | None,
        grid: Grid,
        bits: int,
    ) -> Tensor:
        params = {"scale": scale_M11} if zero_M11 is None else {"scale": scale_M11, "zero": zero_M11}
        shifted_M1S = weight_M1S + offset_M1S * scale_M11
        value_M1S = grid.decode_groups(grid.encode_groups(shifted_M1S, params, bits), params)
        inside_M1S = (shifted_M1S / scale_M11).round() * scale_M11 == value_M1S
        ctx.save_for_backward(weight_M1S, scale_M11, value_M1S, inside_M1S)
        ctx.has_zero = zero_M11 is not None
        return value_M1S

    @staticmethod
    def backward(ctx: Any, gradient_M1S: Tensor) -> tuple[Tensor | None, ...]:
        weight_M1S, scale_M11, value_M1S, inside_M1S = ctx.saved_tensors
        inner_M1S = gradient_M1S * inside_M1S
        for_scale_M11 = (gradient_M1S * value_M1S - inner_M1S * weight_M1S).sum(-1, keepdim=True) / scale_M11
        for_zero_M11 = (inner_M1S - gradient_M1S).sum(-1, keepdim=True) * scale_M11 if ctx.has_zero else None
        return None, inner_M1S * scale_M11, for_scale_M11, for_zero_M11, None, None
