"""Tiles of 16 rows by 128 columns hold the codes that the planes hold, in the order that is stated."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.errors import UserError
from switchq.inference.gpu.tiles import check_groups, from_levels, from_tiles, to_levels, to_tiles
from switchq.quant.planes import pack_planes, unpack_planes


@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 40).map(lambda eighths: 8 * eighths),
    bits=st.integers(2, 8),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_codes_come_back(outputs: int, inputs: int, bits: int, seed: int) -> None:
    shape = (outputs, inputs)
    codes_OI = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    planes = pack_planes(codes_OI)
    held = [to_tiles(plane, k, shape) for k, plane in enumerate(planes)]
    assert {(one.dtype, one.shape) for one in held} == {
        (torch.int32, (2 * -(-outputs // 32), -(-inputs // 128), 32, 2))
    }
    assert torch.equal(from_tiles(held[:bits], shape), unpack_planes(planes[:bits], shape))


@pytest.mark.parametrize("plane", [0, 1, 7])
def test_a_bit_lies_where_it_is_said_to(plane: int) -> None:
    """Four by three tiles: one code has one bit; the sign plane is turned over."""
    shape = (64, 384)
    for row, column in ((0, 0), (1, 1), (8, 4), (31, 127), (32, 128), (43, 255), (63, 383)):
        codes_OI = torch.zeros(shape, dtype=torch.uint8)
        codes_OI[row, column] = 128 >> plane
        tiles = to_tiles(pack_planes(codes_OI.view(torch.int8))[plane], plane, shape)
        tiles = ~tiles if plane == 0 else tiles
        ((down, across, thread, eights),) = tiles.nonzero().tolist()
        (bit,) = [n for n in range(32) if tiles[down, across, thread, eights] >> n & 1]
        h, pse = divmod((bit + plane) % 32, 16)
        g, t = divmod(thread, 4)
        in_tile = 32 * (pse // 4) + 8 * t + 4 * (pse // 2 % 2) + 2 * (pse % 2) + h
        assert (16 * down + 8 * eights + g, 128 * across + in_tile) == (row, column)


@given(outputs=st.integers(1, 70), groups=st.integers(1, 5), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_levels_come_back(outputs: int, groups: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale_OG, offset_OG = torch.randn(2, outputs, groups, generator=generator).half().unbind()
    levels = to_levels(scale_OG, offset_OG)
    assert levels.dtype == torch.int32
    assert levels.shape == (2 * -(-outputs // 32), groups, 8, 2)
    found = from_levels(levels, outputs)
    assert torch.equal(found[0], scale_OG)
    assert torch.equal(found[1], offset_OG)


def test_a_level_lies_where_it_is_said_to() -> None:
    """1 is 0x3C00 and 2 is 0x4000."""
    scale_OG, offset_OG = torch.zeros(64, 3), torch.zeros(64, 3)
    scale_OG[43, 1], offset_OG[43, 1] = 1, 2
    words = to_levels(scale_OG, offset_OG)
    assert words.nonzero().tolist() == [[2, 1, 3, 1]]  # row 16 x 2 + 8 x 1 + 3
    assert words[2, 1, 3, 1] == 0x40003C00


def test_groups_of_half_a_multiplication() -> None:
    with pytest.raises(UserError, match="groups of 16 columns do not run on a GPU"):
        check_groups(128, 8)
