"""A layer as the integers that other programs multiply with:

    weight (O, I) = (code (O, I) - zero (O, G)) x scale (O, G)        codes and zero points are unsigned, of b bits

Levels of `Symmetric` and `Asymmetric`, learned scales among them, are of this kind, and become codes bit for bit. Those
of `Nested` are not: their offset is no whole number of steps. A merged adapter leaves no levels at all. Both are
rounded again, to an integer grid with the same groups and the range that loses least; what that costs is measured.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.nn import SwitchLayer
from switchq.nn.merged import merged_weight
from switchq.quant import Asymmetric, Grid, Nested, Params, Symmetric


@dataclass(frozen=True, eq=False)
class Coded:
    """A weight in unsigned codes.

    Attributes:
        codes_OI: int16, 0 to 2^bits - 1.
        scale_OG: float32 that holds float16 values.
        zero_OG: int16, 0 to 2^bits - 1.
        bits: the width of a code.
        group_size: inputs that share a scale; None for a whole row.
        symmetric: whether all zero points are 2^(bits - 1).
        loss: squared error over the squares of the weights that the model runs with; None where nothing is lost.
    """

    codes_OI: Tensor
    scale_OG: Tensor
    zero_OG: Tensor
    bits: int
    group_size: int | None
    symmetric: bool
    loss: float | None = None

    @property
    def group_I(self) -> Tensor:
        """The group that each input belongs to."""
        return torch.arange(self.codes_OI.shape[1]) // (self.codes_OI.shape[1] // self.scale_OG.shape[1])

    def weight(self) -> Tensor:
        """The weight (O, I), float32."""
        group_I = self.group_I
        return (self.codes_OI - self.zero_OG[:, group_I]).float() * self.scale_OG[:, group_I]


def coded(grid: Grid, codes_OI: Tensor, params: Params, bits: int, loss: float | None = None) -> Coded:
    """Codes of a grid with integer levels, made unsigned."""
    if "zero" in params:
        return Coded(codes_OI, params["scale"], params["zero"].to(torch.int16), bits, grid.group_size, False, loss)
    middle = 2 ** (bits - 1)
    zero_OG = torch.full_like(params["scale"], middle, dtype=torch.int16)
    return Coded(codes_OI + middle, params["scale"], zero_OG, bits, grid.group_size, True, loss)


def check_levels(grid: Grid) -> None:
    """Refuse levels that are not evenly spaced.

    Raises:
        UserError: for them.
    """
    if not (grid.integer_levels or isinstance(grid, Nested)):
        raise UserError(
            f"the levels of {type(grid).__name__} are uneven, which integers cannot hold: choose --format hf, or train "
            f"on Symmetric or Asymmetric"
        )


@torch.no_grad()
def code_layer(layer: SwitchLayer, merge: bool, zero_points: bool) -> Coded:
    """A layer at its current width.

    Args:
        layer: at 2 to 8 bits.
        merge: add the adapters that run there to the weight first.
        zero_points: whether what is rounded again may take zero points; without, it is symmetric.
    """
    bits, linear, grid = layer.bits, layer.linear, layer.linear.grid
    factors = layer.low_rank(bits) if merge else None
    if factors is None and grid.integer_levels:
        params = linear.params(bits)
        return coded(grid, grid.encode(linear.weight.detach(), params, bits), params, bits)
    target_OI = merged_weight(layer) if merge else linear.effective_weight().float()
    again = (Asymmetric if zero_points and not isinstance(grid, Symmetric) else Symmetric)(grid.group_size, "mse")
    params = again.fit(target_OI, bits)
    codes_OI = again.encode(target_OI, params, bits)
    error = (again.decode(codes_OI, params) - target_OI).double().square().sum() / target_OI.double().square().sum()
    return coded(again, codes_OI, params, bits, float(error))
