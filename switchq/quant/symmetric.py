"""The symmetric grid: levels scale x {-q, ..., 0, ..., q} with q = 2^(b-1) - 1.

The level -2^(b-1) is left out, so the grid is its own mirror image: at 2 bits there are three levels (ternary, 1.58
bits of information), stored in 2.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from switchq.quant.grid import Grid, Params, stored_scale


@dataclass(frozen=True)
class Symmetric(Grid):
    """Symmetric integers, one scale per group (or per output row)."""

    integer_levels: ClassVar[bool] = True

    def range_params(self, weight_OGS: Tensor, bits: int, shrink: float) -> Params:
        """scale = shrink x max|w| / q."""
        return {"scale": stored_scale(weight_OGS.abs().amax(-1, keepdim=True) * shrink / _largest(bits))}

    def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """clamp(round(w / scale), -q, q)."""
        return (weight_OGS / params["scale"]).round().clamp(-_largest(bits), _largest(bits))

    def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
        """code x scale."""
        return codes_OGS * params["scale"]

    def overhead_bits(self, shape: tuple[int, int], bits: int) -> int:
        """A 16-bit scale per group."""
        return shape[0] * self.groups(shape[1]) * 16


def _largest(bits: int) -> int:
    return 2 ** (bits - 1) - 1
