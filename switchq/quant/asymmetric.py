"""The asymmetric grid: levels scale x {0 - z, ..., 2^b - 1 - z} with an integer zero point z in the code range."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from switchq.quant.grid import Grid, Params, stored_scale, straight_through


@dataclass(frozen=True)
class Asymmetric(Grid):
    """Unsigned integers with a scale and a zero point per group (or per output row); zero is always a level."""

    integer_levels: ClassVar[bool] = True

    def range_params(self, weight_OGS: Tensor, bits: int, shrink: float) -> Params:
        """scale = (max - min) / (2^b - 1), zero = round(-min / scale), over the range widened to hold 0."""
        low = weight_OGS.amin(-1, keepdim=True).clamp(max=0) * shrink
        high = weight_OGS.amax(-1, keepdim=True).clamp(min=0) * shrink
        scale = stored_scale((high - low) / _largest(bits))
        zero = -low / scale
        return {"scale": scale, "zero": straight_through(zero, zero.detach().round()).clamp(0, _largest(bits))}

    def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """clamp(round(w / scale) + zero, 0, 2^b - 1)."""
        return torch.clamp((weight_OGS / params["scale"]).round() + params["zero"], 0, _largest(bits))

    def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
        """(code - zero) x scale."""
        return (codes_OGS - params["zero"]) * params["scale"]

    def overhead_bits(self, shape: tuple[int, int], bits: int) -> int:
        """A 16-bit scale and a b-bit zero point per group."""
        return shape[0] * self.groups(shape[1]) * (16 + bits)


def _largest(bits: int) -> int:
    return 2**bits - 1
