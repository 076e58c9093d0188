"""Bit-planes: any width back from its planes, and the layout that the module promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.quant.planes import pack_planes, plane_bytes, unpack_planes


@given(rows=st.integers(1, 9), inputs=st.integers(1, 40), bits=st.integers(1, 8), seed=st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_round_trip(rows: int, inputs: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes_OI = torch.randint(-128, 128, (rows, inputs), generator=generator, dtype=torch.int16)
    planes = pack_planes(codes_OI)
    assert [len(plane) for plane in planes] == [plane_bytes((rows, inputs))] * 8
    assert torch.equal(unpack_planes(planes[:bits], (rows, inputs)), (codes_OI >> (8 - bits)).to(torch.int8))


@pytest.mark.parametrize("plane", range(8))
def test_layout(plane: int) -> None:
    """Bit j of byte i is bit 7 - k of code 8 i + j, in two's complement."""
    codes_OI = torch.randint(-128, 128, (3, 5), dtype=torch.int16)
    packed = pack_planes(codes_OI)[plane].tolist()
    for number, code in enumerate(codes_OI.flatten().tolist()):
        assert packed[number // 8] >> (number % 8) & 1 == (code & 0xFF) >> (7 - plane) & 1
    assert packed[1] >> 7 == 0


def test_does_not_depend_on_the_memory_layout() -> None:
    codes_OI = torch.randint(-128, 128, (4, 6), dtype=torch.int16)
    transposed_OI = codes_OI.T.contiguous().T
    for one, other in zip(pack_planes(codes_OI), pack_planes(transposed_OI), strict=True):
        assert torch.equal(one, other)
