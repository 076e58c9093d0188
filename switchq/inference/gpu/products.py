"""Products of activations with bit-planes on a GPU, and how each is cut up."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from switchq.inference.gpu.decoding import field, weight
from switchq.inference.gpu.device import H200, multiprocessors
from switchq.inference.gpu.product_kernel import product_kernel
from switchq.inference.gpu.tiles import COLUMNS, PAIR, ROWS, TiledWeight
from switchq.inference.gpu.values import STEPS
from switchq.inference.gpu.vector_kernel import vector_kernel

__all__ = ["MOST", "Tile", "product", "tile_for", "vector_tile", "weight"]


class Tile(NamedTuple):
    """How a product is cut up. What follows `places` applies to one token only; several have two tiles of rows."""

    warps: int
    """Warps of a program."""

    depth: int
    """Tiles of columns that a warp asks for at once."""

    places: int
    """Places of fields, see `switchq.inference.gpu.values`."""

    down: int = 2
    """Tiles of rows of a program, a divisor of all of them."""

    programs: int = 1
    """Programs that are to share a multiprocessor: a thread's registers are limited so that so many find room."""

    share: int = 1
    """Places that share a sum, a divisor of `places`: fewer registers, a longer chain of multiplications."""

    early: int = 0
    """Of the 8 steps of a tile, those whose codes are made while the activations are on their way, which takes
    registers; only in float16, where a row has one scale and a warp one tile of columns."""


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


def vector_tile(
    outputs: int, inputs: int, bits: int, dtype: torch.dtype, chunk: int, processors: int = H200, pdl: bool = True
) -> Tile:
    """The tile for one token: what was fastest on an H200.

    `chunk`: columns summed before they are scaled; `processors`: multiprocessors of the GPU; `pdl`: whether a kernel
    begins while the one before runs.

    Each of up to 16 warps has one tile of columns, or as many as there are. A program has two tiles of rows where there
    are more than multiprocessors and registers hold the sums: not of wide codes (but where a warp has two tiles of
    columns, it was faster all the same), nor with scales every 32 columns. Programs of 16 warps with a tile of columns
    each share a multiprocessor by twos. Where a last round of these, of wide codes, would leave most multiprocessors
    empty, programs of half the warps take their place. Where 16 warps would have two tiles of columns each and a row
    one scale, and twice as many programs as multiprocessors or somewhat fewer have a tile of rows each, programs of
    half the warps do so in two rounds (not at 2 bits, where a chain of four places is too long).

    At 2 bits, in float16, with a scale a row, programs of 16 warps with a tile of columns each have two tiles of rows,
    unless they were fewer than a quarter of the multiprocessors, and make a quarter of the codes before the activations
    come, if they may begin so early. Up to half as many as multiprocessors have one each: two side by side would leave
    others without work. A sum for each place sees to that, as it takes registers. More share by twos.
    """
    across, down = triton.cdiv(inputs, COLUMNS), 2 * triton.cdiv(outputs, PAIR)
    warps = min(16, triton.next_power_of_2(across))
    depth = min(4 if bits <= 4 else 2, triton.cdiv(across, warps))
    places = 1 if UNDER[dtype] or bits > 4 else 4 if bits == 2 else 2
    if bits > 2 and chunk == inputs and 24 < across <= 32 and 1.5 * processors < down <= 2 * processors:
        return Tile(8, 2, places, down=1, programs=2, share=places)
    two = down > processors and chunk != 32 and (depth <= 2 if bits <= 4 else depth == 2)
    by_twos = warps == 16 and depth == 1
    if bits > 4 and by_twos and down > 2 * processors and 0 < down % (2 * processors) < processors:
        return Tile(8, 2, places, down=1)
    if by_twos and bits == 2 and chunk == inputs and pdl and not UNDER[dtype] and 2 * down > processors:
        few = down <= processors
        return Tile(warps, depth, places, down=2, programs=1 if few else 2, share=1 if few else places, early=2)
    return Tile(warps, depth, places, down=2 if two else 1, programs=2 if by_twos else 1)


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
    if field(bits) * (tile.places - 1) + min(bits, MANTISSA[dtype]) > MANTISSA[dtype] or (
        tokens == 1 and UNDER[dtype] and tile.places > 1
    ):
        raise ValueError(f"{tile} has more places than a mantissa of {dtype} holds of {bits} bits")
    warps = min(tile.warps, triton.cdiv(inputs, COLUMNS))
    if tokens == 1 and (2 * triton.cdiv(outputs, PAIR) % tile.down or ROWS * tile.down > 32 * warps):
        raise ValueError(f"{tile} does not fit {outputs} rows: tiles are left over, or rows without a thread")
    if tile.places % tile.share:
        raise ValueError(f"{tile} has places that cannot share a sum by {tile.share}")
    if tokens == 1 and not 0 <= tile.early <= STEPS.value:
        raise ValueError(f"{tile} wants other codes early than those of a tile's {STEPS.value} steps")
    one_scale, one_tile = tiled.group_size == inputs, tile.depth == 1 and tile.warps * COLUMNS >= inputs
    if tokens == 1 and tile.early and not (one_scale and one_tile and UNDER[dtype] == 0):
        raise ValueError(f"{tile} makes codes early, which takes float16, one scale a row and a warp a tile of columns")


def aligned(x_NI: Tensor) -> Tensor:
    """x as kernels read it, 16 bytes at a time: a copy of what begins, or has rows that begin, in between."""
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
        ValueError: tiles down that do not divide all of them, or that have more rows than the program has threads; more
            places than there are, or places that do not share sums alike; codes made early where that is not done.
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
        "RANK": u_NR.shape[1], "PDL": pdl, "UNDER": UNDER[x_NI.dtype], "ONES": ONE[x_NI.dtype],
        **({"launch_pdl": True} if pdl else {}),
    }  # fmt: skip
    given = (
        x_NI, tiled.planes, tiled.levels, bias_O if bias_O is not None else x_NI, u_NR, high_OR,
        residual_NO if residual_NO is not None else x_NI, out_NO,
    )  # fmt: skip
    across = min(4, triton.next_power_of_2(triton.cdiv(tokens, 8)))
    if tile is None and tokens == 1:
        tile = vector_tile(outputs, inputs, bits, x_NI.dtype, chunk, multiprocessors(x_NI.device), pdl)
    elif tile is None:
        tile = tile_for(inputs, bits, x_NI.dtype, across)
    _check(tile, tiled, x_NI.dtype, tokens)
    common |= {"TAKEN": taken(bits, tile.places, x_NI.dtype), "PLACES": tile.places}
    common |= {"WARPS": tile.warps, "DEPTH": tile.depth, "num_warps": tile.warps}
    if tokens == 1:
        vector_kernel[(triton.cdiv(outputs, ROWS * tile.down),)](
            *given, outputs, UNDER[x_NI.dtype], SUMS=tile.places // tile.share, DOWN=tile.down,
            EARLY=tile.early, maxnreg=registers(tile), **common,
        )  # fmt: skip
    else:
        product_kernel[(triton.cdiv(outputs, PAIR), triton.cdiv(tokens, 8 * across))](
            *given, tokens, outputs, x_NI.stride(0), UNDER[x_NI.dtype], NT=across, **common,
        )  # fmt: skip
    return out_NO


MOST = 32
"""Most rows of activations for which this is faster than decoding the weight and float16's product."""
