"""Bit-planes in 32-bit words, as a GPU reads them.

A word has 32 columns of one row, which share a scale. S being the number of words that do, word w of them and its
place n = 8 h + m (h < 4, m < 8) belong to

    column  4 (m S + w) + h          and are in plane k       bit  n - k  (mod 32)  of the word

Neighbouring threads, which hold neighbouring words, so ask for neighbouring activations, four at once. Plane k is
turned by k places: all bits of a code lie next to each other when words are laid over each other, whatever the number
of planes, so a kernel gets 32 / F codes in fields of F bits by picking bits, without a shift. The sign plane is turned
over: b planes hold code + 2^(b-1).

Planes stay apart: a width of b bits reads the first b of them, whatever b is, and widths share them. The words are
made from the stored planes when those are first read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from switchq.errors import UserError

WORD = 32
"""Bits of a word: columns that it holds."""

NEIGHBOURS = 4
"""Columns of a word that lie side by side."""


def words_per_scale(inputs: int, groups: int) -> int:
    """S, of a row of `inputs` columns in `groups` groups.

    Raises:
        UserError: groups that are no whole words.
    """
    size = inputs // groups
    if size % WORD:
        raise UserError(f"groups of {size} columns do not run on a GPU: export with a group size of a multiple of 32")
    return size // WORD


def to_words(plane: Tensor, number: int, shape: tuple[int, int], stride: int) -> Tensor:
    """Stored plane `number` (see `switchq.quant.planes`), uint8, as words (O, I / 32), int32, on the plane's device."""
    outputs, inputs = shape
    place = torch.arange(8, dtype=torch.uint8, device=plane.device)
    bits_OI = (plane[: outputs * inputs // 8].unsqueeze(-1) >> place) & 1
    bits_OGmSh = bits_OI.view(outputs, -1, WORD // NEIGHBOURS, stride, NEIGHBOURS)
    bits_OWn = bits_OGmSh.permute(0, 1, 3, 4, 2).reshape(outputs, inputs // WORD, WORD)
    turned_OW48 = bits_OWn.roll(-number, -1).view(outputs, inputs // WORD, 4, 8)
    words_OW = (turned_OW48 << place).sum(-1, dtype=torch.uint8).view(torch.int32).squeeze(-1)
    return ~words_OW if number == 0 else words_OW


def from_words(words: Sequence[Tensor], shape: tuple[int, int], stride: int) -> Tensor:
    """The signed codes (O, I), int8, of the first `len(words)` planes."""
    outputs, inputs = shape
    place = torch.arange(WORD, dtype=torch.int32, device=words[0].device)
    codes_OWn = torch.zeros(outputs, inputs // WORD, WORD, dtype=torch.int16, device=words[0].device)
    for number, plane in enumerate(words):
        bits_OWn = ((plane.unsqueeze(-1) >> place) & 1).roll(number, -1)
        codes_OWn = codes_OWn * 2 + bits_OWn.to(torch.int16)
    signed_OWn = (codes_OWn - 2 ** (len(words) - 1)).to(torch.int8)
    signed_OGShm = signed_OWn.view(outputs, -1, stride, NEIGHBOURS, WORD // NEIGHBOURS)
    return signed_OGShm.permute(0, 1, 4, 2, 3).reshape(outputs, inputs)
