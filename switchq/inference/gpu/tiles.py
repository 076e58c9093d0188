"""Bit-planes in tiles, as the tensor cores of a GPU take them, and their scales and offsets.

A tile is 16 rows by 128 columns of a plane: 2 words of 32 bits for each of the 32 threads of a warp, which a thread
reads in one load, 256 bytes side by side for the warp. Thread 4 g + t (g < 8, t < 4) has the rows g and g + 8, a word
each, and of these

    column  32 p + 8 t + 4 s + 2 e + h      (p < 4, s, e, h < 2)
    in plane k at bit  n - k  (mod 32),  n = 16 h + 4 p + 2 s + e

so the halves of a word hold even and odd columns, 16 columns of a tile, four of each thread of a row, make one
multiplication of the tensor cores, and the activations of two of them are 16 bytes of a thread, side by side. Plane k
is turned by k places: all bits of a code lie next to each other when words are laid over each other, whatever the
number of planes, so a kernel gets 32 / F codes in fields of F bits by picking bits, without a shift. For one token,
bits q, q + 8, q + 16 and q + 24 of such a word are bytes, of columns c, c + 64, c + 1 and c + 65, and 32 columns make a
multiplication. The sign plane is
turned over: b planes hold code + 2^(b-1).

Planes stay apart: a width of b bits reads the first b of them, whatever b is, and widths share them. The words are
made from the stored planes when those are first read; rows and columns that fill up the last tiles are zeros. Tiles
come in pairs, 32 rows, which a program that has several tokens takes at once.

Scale and offset of a row and group are the halves of a word; the words of a group in a tile's rows lie side by side,
those of rows g and g + 8 together, as a thread wants them.
"""

from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.errors import UserError

ROWS = 16
"""Rows of a tile."""

PAIR = 2 * ROWS
"""Rows that are filled up to."""

COLUMNS = 128
"""Columns of a tile."""


class TiledWeight(NamedTuple):
    """A weight as kernels take it."""

    planes: tuple[Tensor, ...]
    """Words (O / 16, I / 128, 32, 2) of each plane, int32, see `to_tiles`."""

    levels: Tensor
    """Words (O / 16, G, 8, 2), int32, see `to_levels`."""

    shape: tuple[int, int]
    """Rows and columns (O, I) of the weight."""

    @property
    def group_size(self) -> int:
        """Columns of a group."""
        return self.shape[1] // self.levels.shape[1]

    @property
    def chunk(self) -> int:
        """Columns side by side in a tile that share a scale."""
        return gcd(self.group_size, COLUMNS)


_FIELDS = (2, 8, 4, 4, 2, 2, 2)  # of a tile: rows in eights, rows of these; columns p, t, s, e, h


def check_groups(inputs: int, groups: int) -> None:
    """Raise a UserError for groups that a scale's columns and a multiplication's do not both end with."""
    size = inputs // groups
    if size % 32:
        raise UserError(f"groups of {size} columns do not run on a GPU: export with a group size of a multiple of 32")


def to_tiles(plane: Tensor, number: int, shape: tuple[int, int]) -> Tensor:
    """Stored plane `number` (see `switchq.quant.planes`), uint8, as words (O / 16, I / 128, 32, 2), int32."""
    outputs, inputs = shape
    place_8 = torch.arange(8, dtype=torch.uint8, device=plane.device)
    bits_OI = ((plane[: outputs * inputs // 8].unsqueeze(-1) >> place_8) & 1).view(outputs, inputs)
    bits_OI = 1 - bits_OI if number == 0 else bits_OI
    bits_OI = F.pad(bits_OI, (0, -inputs % COLUMNS, 0, -outputs % PAIR))
    tiles = (len(bits_OI) // ROWS, bits_OI.shape[1] // COLUMNS)
    bits = bits_OI.view(tiles[0], *_FIELDS[:2], tiles[1], *_FIELDS[2:]).permute(0, 3, 2, 5, 1, 8, 4, 6, 7)
    bytes_8 = bits.reshape(*tiles, 32, 2, 32).roll(-number, -1).view(*tiles, 32, 2, 4, 8)
    return (bytes_8 << place_8).sum(-1, dtype=torch.uint8).view(torch.int32).squeeze(-1)


def from_tiles(planes: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """The signed codes (O, I), int8, of the first `len(planes)` planes."""
    place = torch.arange(32, dtype=torch.int32, device=planes[0].device)
    codes = torch.zeros(*planes[0].shape, 32, dtype=torch.int16, device=planes[0].device)
    for number, plane in enumerate(planes):
        codes = codes * 2 + ((plane.unsqueeze(-1) >> place) & 1).roll(number, -1).to(torch.int16)
    signed = (codes - 2 ** (len(planes) - 1)).to(torch.int8)
    down, across = planes[0].shape[:2]
    signed = signed.view(down, across, 8, 4, 2, 2, 4, 2, 2).permute(0, 4, 2, 1, 6, 3, 7, 8, 5)
    return signed.reshape(down * ROWS, across * COLUMNS)[: shape[0], : shape[1]]


def to_levels(scale_OG: Tensor, offset_OG: Tensor) -> Tensor:
    """Scales, the lower halves, and offsets, the upper ones, rounded to float16, as words (O / 16, G, 8, 2), int32."""
    pairs_OG2 = F.pad(torch.stack((scale_OG, offset_OG), -1).half(), (0, 0, 0, 0, 0, -len(scale_OG) % PAIR))
    groups = scale_OG.shape[1]
    return pairs_OG2.view(-1, 2, 8, groups, 2).permute(0, 3, 2, 1, 4).contiguous().view(torch.int32).squeeze(-1)


def from_levels(levels: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """The scales (O, G) and the offsets (O, G), float16."""
    pairs = levels.unsqueeze(-1).view(torch.float16).permute(0, 3, 2, 1, 4)
    pairs_OG2 = pairs.reshape(-1, levels.shape[1], 2)[:outputs]
    return pairs_OG2[..., 0].contiguous(), pairs_OG2[..., 1].contiguous()


def decoded(tiled: TiledWeight) -> Tensor:
    """The weight (O, I), float64, by PyTorch's operators."""
    scale_OG, offset_OG = (one.double().unsqueeze(-1) for one in from_levels(tiled.levels, tiled.shape[0]))
    codes_OGS = from_tiles(tiled.planes, tiled.shape).view(*scale_OG.shape[:2], -1).double()
    return (codes_OGS * scale_OG + offset_OG).view(tiled.shape)
