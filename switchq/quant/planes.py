"""Bit-planes: plane k of a weight holds bit k of every code, the sign bit first, eight codes a byte.

Codes are signed 8-bit integers. The first b planes are what a b-bit code needs, nothing else has to be read, and more
precision is more planes. Code 8 i + j of the flattened (O, I) weight is bit j of byte i; the last byte is filled up
with zeros.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from switchq.quant.nested import PARENT_BITS


def pack_planes(codes_OI: Tensor) -> list[Tensor]:
    """The eight planes of signed 8-bit codes, uint8, (ceil(O I / 8),) each."""
    unsigned = codes_OI.to(torch.int8).contiguous().view(torch.uint8).flatten().numpy()
    return [
        torch.from_numpy(np.packbits((unsigned >> (PARENT_BITS - 1 - plane)) & 1, bitorder="little"))
        for plane in range(PARENT_BITS)
    ]


def unpack_planes(planes: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """The codes (O, I), int8, that the first `len(planes)` planes hold: b planes give codes of b bits."""
    bytes_of = torch.zeros(len(planes[0]), dtype=torch.int64)
    for number, plane in enumerate(planes):
        bytes_of |= _SPREAD[number].index_select(0, plane.int())
    codes = bytes_of.view(torch.int8)[: shape[0] * shape[1]].view(shape)
    return codes >> (PARENT_BITS - len(planes))


def plane_bytes(shape: tuple[int, int]) -> int:
    """Bytes of one plane of a weight (O, I)."""
    return -(-shape[0] * shape[1] // 8)


def _spread() -> list[Tensor]:
    """For each plane, a table from a byte to eight bytes in one int64: byte j holds bit j at the plane's place."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    moved = [np.ascontiguousarray(bits << (PARENT_BITS - 1 - plane)) for plane in range(PARENT_BITS)]
    return [torch.from_numpy(table.view(np.int64).squeeze(-1).copy()) for table in moved]


_SPREAD = _spread()
