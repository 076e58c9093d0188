"""Words of codes: the layout that the module promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.quant.words import pack_words, unpack_words


@given(rows=st.integers(1, 5), length=st.integers(1, 70), bits=st.integers(1, 8), seed=st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_a_row_is_one_long_integer(rows: int, length: int, bits: int, seed: int) -> None:
    codes_NL = torch.randint(0, 2**bits, (rows, length), generator=torch.Generator().manual_seed(seed))
    words_NW = pack_words(codes_NL, bits)
    assert (words_NW.dtype, words_NW.shape) == (torch.int32, (rows, -(-length * bits // 32)))
    for codes, words in zip(codes_NL.tolist(), words_NW.tolist(), strict=True):
        whole = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words))
        assert whole == sum(code << (bits * place) for place, code in enumerate(codes))
    assert torch.equal(unpack_words(words_NW, length, bits), codes_NL.short())
    assert torch.equal(unpack_words(words_NW.T.contiguous().T, length, bits), codes_NL.short())


def test_by_hand() -> None:
    assert pack_words(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]]), 4).tolist() == [[0xF7654321 - 2**32]]
    assert pack_words(torch.tensor([[7] * 10 + [0b101]]), 3).tolist() == [[0b01 << 30 | 0x3FFFFFFF, 0b1]]


def test_words_of_another_number() -> None:
    with pytest.raises(ValueError, match="2 words are not 8 codes of 4 bits"):
        unpack_words(torch.zeros(1, 2, dtype=torch.int32), 8, 4)
