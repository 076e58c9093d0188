"""Codes of b bits in 32-bit words without gaps: code i of a row takes bits b i to b i + b - 1, the lowest bit first.

A row begins with a new word and its last word is filled up with zeros. This is how GPTQ's and compressed-tensors' files
hold codes; where b divides 32 no code lies in two words.
"""

import numpy as np
import torch
from torch import Tensor


def pack_words(codes_NL: Tensor, bits: int) -> Tensor:
    """Pack rows of codes.

    Args:
        codes_NL: integers from 0 to 2^bits - 1.
        bits: the width of a code, 1 to 8.

    Returns:
        The words (N, ceil(L bits / 32)), int32.
    """
    rows, length = codes_NL.shape
    words = -(-length * bits // 32)
    code_bits = np.unpackbits(codes_NL.to(torch.uint8).numpy()[..., None], axis=-1, count=bits, bitorder="little")
    stream = np.zeros((rows, words * 32), np.uint8)
    stream[:, : length * bits] = code_bits.reshape(rows, -1)
    packed = np.ascontiguousarray(np.packbits(stream, axis=-1, bitorder="little")).view("<i4")
    return torch.from_numpy(packed.astype(np.int32, copy=False))


def unpack_words(words_NW: Tensor, length: int, bits: int) -> Tensor:
    """The codes (N, length), int16, that `pack_words` packed.

    Raises:
        ValueError: words of another number than that takes.
    """
    rows, words = words_NW.shape
    if words != -(-length * bits // 32):
        raise ValueError(f"{words} words are not {length} codes of {bits} bits")
    stored = np.ascontiguousarray(words_NW.numpy().astype("<i4", copy=False)).view(np.uint8)
    code_bits = np.unpackbits(stored, axis=-1, count=length * bits, bitorder="little").reshape(rows, length, bits)
    return torch.from_numpy(np.packbits(code_bits, axis=-1, bitorder="little")[..., 0].astype(np.int16))
