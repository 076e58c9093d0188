"""Codes of 2, 4 or 8 bits in bytes, so that a few shifts and masks of whole vectors take them apart again.

The columns of a group, filled up with zeros, come in blocks. Of F codes a byte (F = 4, 2, 1), byte k of a block's w
holds the codes of its columns k, k + w, k + 2w, ..., the first in its lowest bits. Groups of too few columns to fill 32
bytes lie side by side: 32 bytes hold a block of each of 2 or 4 groups, one after the other.

Codes of at most 4 bits are stored unsigned, c + 2^(b-1); those of 3 take the room of 4, those of 5 to 8 a byte.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

VECTOR = 32
"""Bytes that are taken apart at a time."""


@dataclass(frozen=True)
class Layout:
    """How codes lie in bytes.

    Attributes:
        field: bits that a code takes.
        side: groups that lie side by side.
        width: w, bytes of a group's block.
        single: whether every group has one block, as it has where groups lie side by side.
    """

    field: int
    side: int
    width: int
    single: bool

    @classmethod
    def of(cls, bits: int, size: int) -> "Layout":
        """Where codes of `bits` lie in groups of `size` columns."""
        field = next(field for field in (2, 4, 8) if bits <= field)
        fitting = (side for side in (4, 2) if side <= 8 // field and side * size <= VECTOR * 8 // field)
        side = next(fitting, 1)
        # Two vectors of whole bytes make fewer turns of a loop.
        width = 2 * VECTOR if field == 8 and size > VECTOR else VECTOR // side
        return cls(field, side, width, size <= width * 8 // field)

    @property
    def fields(self) -> int:
        """F: codes in a byte."""
        return 8 // self.field

    @property
    def block(self) -> int:
        """Columns of a block."""
        return self.width * self.fields

    def blocks(self, size: int) -> int:
        """In a group of `size` columns."""
        return -(-size // self.block)

    def laid(self, groups: int) -> int:
        """Groups that are stored: some of zeros fill up the last that lie side by side."""
        return -(-groups // self.side) * self.side

    def pack(self, codes_OI: Tensor, groups: int, lowest: int) -> Tensor:
        """Codes (O, I), int8, of so many groups, plus `lowest` -> bytes (O, laid x blocks x w)."""
        stored_OGS = codes_OI.contiguous().unflatten(1, (groups, -1)) + lowest
        size = stored_OGS.shape[2]
        filled_OGS = F.pad(stored_OGS, (0, self.blocks(size) * self.block - size, 0, self.laid(groups) - groups))
        shape = (len(codes_OI), -1, self.side, self.blocks(size), self.fields, self.width)
        fields = filled_OGS.reshape(shape).transpose(2, 3).view(torch.uint8).unbind(-2)
        packed = fields[0].clone()
        for number, one in enumerate(fields[1:], 1):
            packed |= one << (number * self.field)
        return packed.flatten(1).contiguous()
