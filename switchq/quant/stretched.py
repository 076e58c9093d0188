"""The stretched grid: levels scale x {-q, ..., -1/2, 1/2, ..., q} with q = (2^b - 1) / 2.

Its own mirror image with all 2^b codes in use, at the price of zero, which is no level: at 2 bits four levels where the
symmetric grid has three. ParetoQ (Liu et al. 2025, arXiv:2502.02631) trains 2 bits on it ("stretched elastic quant").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.quant.grid import Grid, Params, stored_scale


@dataclass(frozen=True)
class Stretched(Grid):
    """Half-integers, one scale per group (or per output row); a group of zeros comes within 0.00004 of zero."""

    def range_params(self, weight_OGS: Tensor, bits: int, shrink: float) -> Params:
        """scale = shrink x max|w| / q."""
        largest = weight_OGS.abs().amax(-1, keepdim=True) * shrink / _largest(bits)
        return {"scale": stored_scale(largest.clamp(min=torch.finfo(torch.float16).smallest_normal))}

    def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """clamp(floor(w / scale), -2^(b-1), 2^(b-1) - 1)."""
        return (weight_OGS / params["scale"]).floor().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
        """(code + 1/2) x scale."""
        return (codes_OGS + 0.5) * params["scale"]

    def overhead_bits(self, shape: tuple[int, int], bits: int) -> int:
        """A 16-bit scale per group."""
        return shape[0] * self.groups(shape[1]) * 16


def _largest(bits: int) -> float:
    return (2**bits - 1) / 2
