"""Products of activations with bit-planes on a GPU, and how each is cut up."""

from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from switchq.inference.gpu.decoding import field, weight
from switchq.inference.gpu.device import H200, multiprocessors
from switchq.inference.gpu.digits import STEPS
from switchq.inference.gpu.product_kernel import product_kernel
from switchq.inference.gpu.tiles import COLUMNS, PAIR, ROWS, TiledWeight
from switchq.inference.gpu.vector_kernel import vector_kernel

__all__ = ["MOST", "Tile", "product", "tile_for", "vector_tile", "weight"]


class Tile(NamedTuple):
    """How a product is cut up. What follows `places` applies to one token only; several have two tiles of rows."""

    warps: int
    """Warps of a program."""

    depth: int
    """Tiles of columns that a warp asks for at once."""

    places: int = 1
    """For several tokens, who have two tiles of rows: places of fields, see `switchq.inference.gpu.values`."""

    down: int = 2
    """For one token, as what follows: tiles of rows of a program, a divisor of all of them."""

    programs: int = 1
    """Programs that are to share a multiprocessor: a thread's registers are limited so that so many find room."""

    early: int = 0
    """Of a warp's steps, 4 a tile of columns, those whose codes are made while the activations are on their way, which
    takes registers."""


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


TILES = (
    (8, 1, 4, Tile(16, 1, down=1, programs=2, early=2)),
    (8, 1, 8, Tile(16, 1, down=1, programs=2)),
    (8, inf, 2, Tile(16, 1, down=4, early=4)),
    (8, inf, 2, Tile(16, 1, down=2, early=4)),
    (8, inf, 4, Tile(16, 1, down=3, early=4)),
    (8, inf, 8, Tile(16, 1, down=3, early=2)),
    (8, inf, 4, Tile(16, 1, down=4, early=2)),
    (8, inf, 8, Tile(16, 1, down=4)),
    (8, inf, 8, Tile(16, 1, down=2, early=2)),
    (16, 1, 4, Tile(8, 2, down=1, programs=2, early=4)),
    (16, 1, 8, Tile(16, 1, down=1, early=4)),
    (16, inf, 2, Tile(8, 2, down=3, programs=2, early=4)),
    (16, inf, 2, Tile(16, 1, down=2, early=2)),
    (16, inf, 8, Tile(8, 2, down=3, early=8)),
    (16, inf, 4, Tile(8, 2, down=2, programs=2, early=2)),
    (16, inf, 8, Tile(8, 2, down=2, early=2)),
    (24, 1, 2, Tile(8, 3, down=1, programs=2, early=8)),
    (24, 1, 4, Tile(8, 3, down=1, early=2)),
    (24, 1, 8, Tile(8, 3, down=1, programs=2, early=8)),
    (32, 1, 2, Tile(16, 2, down=1, programs=2, early=6)),
    (32, 1, 4, Tile(16, 2, down=1, programs=2, early=4)),
    (32, 2, 2, Tile(16, 2, down=2, early=4)),
    (32, 2, 4, Tile(16, 2, down=2, programs=2, early=4)),
    (32, inf, 4, Tile(8, 2, down=2)),
    (32, inf, 8, Tile(8, 4, down=1, early=4)),
    (64, 1, 2, Tile(16, 4, down=2, early=6)),
    (64, 1, 8, Tile(16, 4, down=1, early=6)),
    (inf, inf, 8, Tile(16, 2, down=1, early=2)),
)
"""For up to so many tiles of columns, of rows for each multiprocessor, and bits, the tile that was about the fastest
for one token on an H200, of some 3,700 measurements at 18 sizes. Those with three or four tiles of rows are for weights
that give at least a third as many programs as there are multiprocessors. Where they give no more than these, all run at
once, and the next product's find room beside them to read their weights meanwhile."""


@cache
def vector_tile(outputs: int, inputs: int, bits: int, processors: int = H200, pdl: bool = True) -> Tile:
    """The tile for one token: the first of `TILES` that fits the weight and the GPU's multiprocessors.

    `pdl`: whether a kernel begins while the one before runs; where it does not, no codes are made early, which was 5 to
    8 % faster.
    """
    across, rows = triton.cdiv(inputs, COLUMNS), 2 * triton.cdiv(outputs, PAIR)

    def fits(tile: Tile) -> bool:
        enough = tile.down <= 2 or 3 * rows >= processors * tile.down
        return enough and rows % tile.down == 0 and ROWS * tile.down <= 32 * min(tile.warps, across)

    found = next(
        tile
        for columns, share, most, tile in TILES
        if across <= columns and rows <= share * processors and bits <= most and fits(tile)
    )
    return found if pdl else found._replace(early=0)


def registers(tile: Tile) -> int | None:
    """Of a thread, at most, so that `tile.programs` share a multiprocessor; a warp gets them by eights a thread."""
    return None if tile.programs == 1 else REGISTERS // (32 * tile.warps * tile.programs) // 8 * 8


REGISTERS = 1 << 16
"""Of a multiprocessor."""

MANTISSA = {torch.float16: 10, torch.bfloat16: 7}
"""Bits of a mantissa."""

ONE = {torch.float16: 0x3C003C00, torch.bfloat16: 0x3F803F80}
"""1 in both halves of a word."""

UNDER = {torch.float16: 0, torch.bfloat16: ONE[torch.bfloat16]}
"""What lies under codes, see `switchq.inference.gpu.values`."""


def taken(bits: int, places: int, dtype: torch.dtype) -> int:
    """Bits of a number's mantissa that may hold codes, see `switchq.inference.gpu.values`."""
    return MANTISSA[dtype] if UNDER[dtype] else field(bits) * places


def _check(tile: Tile, tiled: TiledWeight, dtype: torch.dtype, tokens: int) -> None:
    """Raise a ValueError for a tile that does not fit: it would give wrong numbers."""
    (outputs, inputs), bits = tiled.shape, len(tiled.planes)
    if tokens > 1:
        if field(bits) * (tile.places - 1) + min(bits, MANTISSA[dtype]) > MANTISSA[dtype]:
            raise ValueError(f"{tile} has more places than a mantissa of {dtype} holds of {bits} bits")
        return
    warps = min(tile.warps, triton.cdiv(inputs, COLUMNS))
    if 2 * triton.cdiv(outputs, PAIR) % tile.down or ROWS * tile.down > 32 * warps:
        raise ValueError(f"{tile} does not fit {outputs} rows: tiles are left over, or rows without a thread")
    if not 0 <= tile.early <= STEPS.value * tile.depth:
        raise ValueError(f"{tile} wants other codes early than those of a warp's {STEPS.value * tile.depth} steps")


def aligned(x_NI: Tensor) -> Tensor:
    """x as kernels read it, up to 16 bytes at a time: a copy of what begins, or has rows that begin, in between."""
    fits = x_NI.data_ptr() % 16 == 0 and (len(x_NI) == 1 or x_NI.stride(0) * x_NI.element_size() % 16 == 0)
    return x_NI if fits else x_NI.clone(memory_format=torch.contiguous_format)


def product(
    x_NI: Tensor,
    tiled: TiledWeight,
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
        tiled: W (O, I).
        bias_O: a bias.
        low: u (N, R) and high (O, R) of the adapter, rows contiguous, R even; types as x's.
        gelu: GELU's tanh form on the result.
        residual_NO: added at the end.
        out_NO: where to write; as x by default.
        tile: how to cut it up; by default what `vector_tile` says for one token, else `tile_for`.
        pdl: begin to read weights while the kernel before still runs.

    Raises:
        ValueError: for one token, tiles down that do not divide all of them, or that have more rows than the program
            has threads, or early steps that there are not; for several, more places than there are.
    """
    x_NI = aligned(x_NI)
    tokens, (outputs, inputs) = len(x_NI), tiled.shape
    group, bits = tiled.group_size, len(tiled.planes)
    chunk = inputs if group == inputs else tiled.chunk
    if out_NO is None:
        out_NO = torch.empty(tokens, outputs, dtype=x_NI.dtype, device=x_NI.device)
    u_NR, high_OR = low if low is not None else (x_NI, x_NI)
    common: dict[str, Any] = {
        "IN": inputs, "GROUP": group, "CHUNK": chunk, "F": field(bits),
        "BIAS": bias_O is not None, "LOW": low is not None, "GELU": gelu, "RESIDUAL": residual_NO is not None,
        "RANK": u_NR.shape[1], "PDL": pdl,
        **({"launch_pdl": True} if pdl else {}),
    }  # fmt: skip
    given = (
        x_NI, tiled.planes, tiled.levels, bias_O if bias_O is not None else x_NI, u_NR, high_OR,
        residual_NO if residual_NO is not None else x_NI, out_NO,
    )  # fmt: skip
    across = min(4, triton.next_power_of_2(triton.cdiv(tokens, 8)))
    if tile is None and tokens == 1:
        tile = vector_tile(outputs, inputs, bits, multiprocessors(x_NI.device), pdl)
    elif tile is None:
        tile = tile_for(inputs, bits, x_NI.dtype, across)
    _check(tile, tiled, x_NI.dtype, tokens)
    common |= {"WARPS": tile.warps, "DEPTH": tile.depth, "num_warps": tile.warps}
    if tokens == 1:
        vector_kernel[(triton.cdiv(outputs, ROWS * tile.down),)](
            *given, outputs, 0, DOWN=tile.down, EARLY=tile.early, maxnreg=registers(tile), **common
        )
    else:
        common |= {"TAKEN": taken(bits, tile.places, x_NI.dtype), "PLACES": tile.places}
        common |= {"UNDER": UNDER[x_NI.dtype], "ONES": ONE[x_NI.dtype]}
        product_kernel[(triton.cdiv(outputs, PAIR), triton.cdiv(tokens, 8 * across))](
            *given, tokens, outputs, x_NI.stride(0), UNDER[x_NI.dtype], NT=across, **common,
        )  # fmt: skip
    return out_NO


MOST = 32
"""Most rows of activations for which this is faster than decoding the weight and float16's product."""
