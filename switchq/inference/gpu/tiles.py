"""Bit-planes in tiles, as the tensor cores of a GPU take them.

A tile is 16 rows by 128 columns of a plane: 2 words of 32 bits for each of the 32 threads of a warp, which a thread
reads in one load, 256 bytes side by side for the warp. Thread 4 g + t (g < 8, t < 4) has the rows g and g + 8, a word
each, and of these

    column  32 p + 8 t + 4 s + 2 e + h      (p < 4, s, e, h < 2)
    in plane k at bit  n - k  (mod 32),  n = 16 h + 4 p + 2 s + e

so the halves of a word hold even and odd columns, 16 columns of a tile, four of each thread of a row, make one
multiplication of the tensor cores, and the activations of two of them are 16 bytes of a thread, side by side. Plane k
is turned by k places: all bits of a code lie next to each other when words are laid over each other, whatever the
number of planes, so a kernel gets 32 / F codes in fields of F bits by picking bits, without a shift. The sign plane is
turned over: b planes hold code + 2^(b-1).

Planes stay apart: a width of b bits reads the first b of them, whatever b is, and widths share them. The words are
made from the stored planes when those are first read; rows and columns that fill up the last tiles are zeros. Tiles
come in pairs, 32 rows, which a program that has several tokens takes at once.
"""

from collections.abc import Sequence

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
