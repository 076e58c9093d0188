"""Bit-planes in 32-bit words, as a GPU reads them.

    bit n of word w of a row  =  bit of column  32 S (w // S) + n S + w % S

so that neighbouring threads, which hold neighbouring words, ask for neighbouring activations. S is the number of words
whose columns share a scale: all of a row, or those of a group. Planes stay apart: a width of b bits reads the first b
of them, whatever b is, and widths share them. The words are made from the stored planes when those are first read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from switchq.errors import UserError

WORD = 32
"""Bits of a word: columns that it holds."""


def words_per_scale(inputs: int, groups: int) -> int:
    """S, of a row of `inputs` columns in `groups` groups.

    Raises:
        UserError: groups that are no whole words.
    """
    size = inputs // groups
    if size % WORD:
        raise UserError(f"groups of {size} columns do not run on a GPU: export with a group size of a multiple of 32")
    return size // WORD


def to_words(plane: Tensor, shape: tuple[int, int], stride: int) -> Tensor:
    """A stored plane (see `switchq.quant.planes`), uint8, as words (O, I / 32), int32, on the plane's device."""
    outputs, inputs = shape
    place = torch.arange(8, dtype=torch.uint8, device=plane.device)
    bits_OI = (plane[: outputs * inputs // 8].unsqueeze(-1) >> place) & 1
    turned = bits_OI.view(outputs, -1, WORD, stride).transpose(-1, -2).reshape(outputs, inputs // WORD, 4, 8)
    return (turned << place).sum(-1, dtype=torch.uint8).view(torch.int32).squeeze(-1)


def from_words(words: Sequence[Tensor], shape: tuple[int, int], stride: int) -> Tensor:
    """The signed codes (O, I), int8, of the first `len(words)` planes."""
    outputs, inputs = shape
    place = torch.arange(WORD, dtype=torch.int32, device=words[0].device)
    codes = torch.zeros(outputs, inputs // WORD, WORD, dtype=torch.int8, device=words[0].device)
    for plane in words:
        codes = codes * 2 + ((plane.unsqueeze(-1) >> place) & 1).to(torch.int8)
    signed = codes << (8 - len(words)) >> (8 - len(words))
    return signed.view(outputs, -1, stride, WORD).transpose(-1, -2).reshape(outputs, inputs)
