"""Products of activations with bit-planes on a GPU, and how each is cut up."""

from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from switchq.inference.gpu.decoding import field, weight
from switchq.inference.gpu.product_kernel import product_kernel
from switchq.inference.gpu.tiles import COLUMNS, ROWS

__all__ = ["MOST", "Tile", "product", "tile_for", "weight"]


class Tile(NamedTuple):
    """How a product is cut up: warps of a program, tiles that a warp asks for at once, places of fields."""

    warps: int
    depth: int
    places: int


def tile_for(inputs: int, bits: int, dtype: torch.dtype, across: int) -> Tile:
    """The tile for a weight of so many columns and eights of tokens: what was fastest on an H200."""
    tiles = triton.cdiv(inputs, COLUMNS)
    if (across > 2 and tiles <= 16) or (across == 1 and tiles <= 8 and bits <= 4):
        warps, depth = 4, 2
    else:
        warps, depth = 16 if tiles > 32 and across == 1 else 8, max(1, 16 // (bits * across))
    warps = min(warps, triton.next_power_of_2(tiles))
    places = 2 if across == 1 and warps > 4 and field(bits) + bits <= MANTISSA[dtype] else 1
    return Tile(warps, min(depth, triton.cdiv(tiles, warps)), places)


MANTISSA = {torch.float16: 10, torch.bfloat16: 7}
"""Bits of a mantissa."""

ONE = {torch.float16: 0x3C003C00, torch.bfloat16: 0x3F803F80}
"""1 in both halves of a word."""


def product(
    x_NI: Tensor,
    planes: Sequence[Tensor],
    scale_OG: Tensor,
    offset_OG: Tensor,
    *,
    bias_O: Tensor | None = None,
    low: tuple[Tensor, Tensor] | None = None,
    gelu: bool = False,
    residual_NO: Tensor | None = None,
    out_NO: Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> Tensor:
    """x W^T + bias + u high^T, then GELU, then + residual.

    Args:
        x_NI: activations, float16 or bfloat16, rows contiguous.
        planes: words of each plane, see `switchq.inference.gpu.tiles`.
        scale_OG: float16 scales.
        offset_OG: float16 offsets.
        bias_O: a bias.
        low: u (N, R) and high (O, R) of the adapter, rows contiguous, R even; types as x's.
        gelu: GELU's tanh form on the result.
        residual_NO: added at the end.
        out_NO: where to write; as x by default.
        tile: how to cut it up; by default what `tile_for` says.
        pdl: begin to read weights while the kernel before still runs.
    """
    tokens, inputs = x_NI.shape
    outputs, groups = scale_OG.shape
    bits = len(planes)
    chunk = inputs if groups == 1 else gcd(inputs // groups, COLUMNS)  # columns summed before they are scaled
    if out_NO is None:
        out_NO = torch.empty(tokens, outputs, dtype=x_NI.dtype, device=x_NI.device)
    u, high = low if low is not None else (x_NI, x_NI)
    across = min(4, triton.next_power_of_2(triton.cdiv(tokens, 8)))
    tile = tile or tile_for(inputs, bits, x_NI.dtype, across)
    product_kernel[(triton.cdiv(outputs, ROWS), triton.cdiv(tokens, 8 * across))](
        x_NI, tuple(planes), scale_OG, offset_OG, bias_O if bias_O is not None else x_NI, u, high,
        residual_NO if residual_NO is not None else x_NI, out_NO,
        tokens, outputs, x_NI.stride(0), ONE[x_NI.dtype],
        IN=inputs, GROUP=inputs // groups, CHUNK=chunk, F=field(bits),
        BIAS=bias_O is not None, LOW=low is not None, GELU=gelu, RESIDUAL=residual_NO is not None,
        PLACES=tile.places, NT=across, WARPS=tile.warps, DEPTH=tile.depth,
        RANK=u.shape[1], PDL=pdl, TOP=MANTISSA[x_NI.dtype], ONES=ONE[x_NI.dtype],
        num_warps=tile.warps, **({"launch_pdl": True} if pdl else {}),
    )  # fmt: skip
    return out_NO


MOST = 32
"""Most rows of activations for which this is faster than decoding the weight and float16's product."""
