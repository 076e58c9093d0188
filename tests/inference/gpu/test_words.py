"""Words of 32 columns hold the codes that the planes hold, in the order that is stated."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.errors import UserError
from switchq.inference.gpu.words import from_words, to_words, words_per_scale
from switchq.quant.planes import pack_planes, unpack_planes


@given(
    outputs=st.integers(1, 5),
    groups=st.integers(1, 4),
    words=st.integers(1, 5),
    bits=st.integers(2, 8),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_codes_come_back(outputs: int, groups: int, words: int, bits: int, seed: int) -> None:
    shape = (outputs, groups * words * 32)
    codes_OI = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    planes = pack_planes(codes_OI)
    stride = words_per_scale(shape[1], groups)
    assert stride == words
    held = [to_words(plane, k, shape, stride) for k, plane in enumerate(planes)]
    assert {(one.dtype, one.shape) for one in held} == {(torch.int32, (outputs, groups * words))}
    assert torch.equal(from_words(held[:bits], shape, stride), unpack_planes(planes[:bits], shape))


@pytest.mark.parametrize("plane", [0, 1, 7])
def test_a_bit_lies_where_it_is_said_to(plane: int) -> None:
    """Two rows of two groups of 3 words: one code has one bit; the sign plane is turned over."""
    shape, stride = (2, 192), 3
    for column in (0, 1, 95, 96, 130, 191):
        codes_OI = torch.zeros(shape, dtype=torch.uint8)
        codes_OI[1, column] = 128 >> plane
        words_OW = to_words(pack_planes(codes_OI.view(torch.int8))[plane], plane, shape, stride)
        words_OW = ~words_OW if plane == 0 else words_OW
        ((row, word),) = words_OW.nonzero().tolist()
        (bit,) = [n for n in range(32) if words_OW[row, word] >> n & 1]
        h, m = divmod((bit + plane) % 32, 8)
        in_group = 4 * (m * stride + word % stride) + h
        assert (row, 32 * stride * (word // stride) + in_group) == (1, column)


def test_groups_of_half_a_word() -> None:
    with pytest.raises(UserError, match="groups of 16 columns do not run on a GPU"):
        words_per_scale(128, 8)
