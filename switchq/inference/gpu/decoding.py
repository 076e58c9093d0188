"""Reading b bit-planes in Triton: codes as floats in a register, and a whole weight decoded.

Words of planes (see `switchq.inference.gpu.words`) give, by picking bits alone, words whose fields of F = 2, 4 or 8
bits hold the codes of columns r, r + F, r + 2 F, ... A field is turned to the upper half of a float's mantissa and
masked there, and 1 laid under it:

    value = 1 + u 2^(s-23)        u = code + 2^(b-1)        s = 19, 15 or so: the field's lowest bit

The T = 8 / F fields beside each other are read with one turn, so that a weight of 2, 4 or 8 bits costs one masking,
1/4, 1/2 or 1 turn and 1/16, 1/4 or 3/4 pick.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from switchq.inference.gpu.tensorcore import INTERPRETED

ONE = 0x3F800000
"""1 as float32. A kernel is given it as a number that it cannot know, which leaves it in a register.

`zero`, another such number, keeps Triton from giving a thread several neighbours: a thread has one word of a row, and
what it loads and stores beside it is laid out alike."""


@triton.jit
def turned(word, BY: tl.constexpr):
    """The word turned right by BY places."""
    by: tl.constexpr = BY % 32
    return word if by == 0 else (word >> by) | (word << (32 - by))


@triton.jit
def _pick(a, b, ONES: tl.constexpr, R: tl.constexpr, F: tl.constexpr):
    """Bits of a where ONES, turned so that its first run ends at R, has one; elsewhere of b."""
    by: tl.constexpr = F - 1 - R % F
    mask: tl.constexpr = ((ONES >> by) | (ONES << (32 - by))) & 0xFFFFFFFF
    if INTERPRETED:
        return (a & mask) | (b & (mask ^ 0xFFFFFFFF))
    else:  # LLVM makes two instructions of it
        return tl.inline_asm_elementwise(_merge(mask), "=r,r,r", [a, b], dtype=tl.uint32, is_pure=True, pack=1)


@triton.constexpr_function
def _merge(mask):
    """The instruction that takes bits of $1 where mask has ones, elsewhere of $2."""
    return f"lop3.b32 $0, $1, $2, {mask:#x}, 0xE4;"


@triton.jit
def code_word(planes, R: tl.constexpr, F: tl.constexpr):
    """The fields of columns R, R + F, ...: the sign bit of column n at bit n, the next one below it, and so on."""
    last: tl.constexpr = len(planes) - 1
    word = _pick(planes[0], planes[1], 0xAAAAAAAA, R, 2)
    if F > 2:
        more = _pick(planes[2], planes[min(3, last)], 0xAAAAAAAA, R, 2)
        word = _pick(word, more, 0xCCCCCCCC, R, 4)
    if F > 4:
        low = _pick(planes[4], planes[min(5, last)], 0xAAAAAAAA, R, 2)
        more = _pick(planes[min(6, last)], planes[min(7, last)], 0xAAAAAAAA, R, 2)
        low = _pick(low, more, 0xCCCCCCCC, R, 4)
        word = _pick(word, low, 0xF0F0F0F0, R, 8)
    return word


@triton.jit
def load_words(planes, at, mask):
    """The words at `at` of each plane. They are read once."""
    words = ()
    for k in tl.static_range(len(planes)):
        word = tl.load(planes[k] + at, mask=mask, other=0, eviction_policy="evict_first")
        words = words + (word.to(tl.uint32, bitcast=True),)
    return words


@triton.jit
def value(word, one, J: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr):
    """1 + u 2^(s-23) of field J of the T at the top of the mantissa, float32."""
    s: tl.constexpr = 23 - 8 + F * (J + 1) - BITS
    mask: tl.constexpr = ((1 << BITS) - 1) << s
    return ((word & mask) | one).to(tl.float32, bitcast=True)


@triton.constexpr_function
def unit(j, bits, fields):
    """2^(23-s) of field j."""
    return float(1 << (8 - fields * (j + 1) + bits))


@triton.jit(do_not_specialize=["one", "zero"])
def _weight(
    planes, scale_ptr, offset_ptr, weight_ptr, OUT, one, zero,
    WORDS: tl.constexpr, S: tl.constexpr, F: tl.constexpr, BO: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """weight (O, I) = code x scale + offset."""
    BITS: tl.constexpr = len(planes)
    rows_O = (tl.program_id(0) * BO + tl.arange(0, BO))[:, None]
    words_W = (tl.program_id(1) * BW + tl.arange(0, BW))[None, :]
    mask = (rows_O < OUT) & (words_W < WORDS)
    words = load_words(planes, zero + rows_O * WORDS + words_W, mask)
    level, held = rows_O * (WORDS // S) + words_W // S, mask
    if S == WORDS:
        level, held = rows_O, rows_O < OUT
    scale = tl.load(scale_ptr + level, mask=held, other=0.0).to(tl.float32)
    offset = tl.load(offset_ptr + level, mask=held, other=0.0).to(tl.float32)
    place = weight_ptr + zero + rows_O * (WORDS * 32) + (words_W // S) * (32 * S) + (words_W % S) * 4
    for r in tl.static_range(F):
        word = code_word(words, r, F)
        for h in tl.static_range(4):
            moved = turned(word, r + 8 * h - 22 + 8 - F)
            for j in tl.static_range(8 // F):
                code = (value(moved, one, j, BITS, F) - 1.0) * unit(j, BITS, F) - (1 << (BITS - 1))
                level = code * scale + offset
                tl.store(place + (r + F * j) * S * 4 + h, level.to(weight_ptr.dtype.element_ty), mask=mask)


def weight(planes: Sequence[Tensor], scale_OG: Tensor, offset_OG: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """The weight (O, I) in `dtype`."""
    outputs, words = planes[0].shape
    weight_OI = torch.empty(outputs, words * 32, dtype=dtype, device=planes[0].device)
    wide = 32
    _weight[(triton.cdiv(outputs, 4), triton.cdiv(words, wide))](
        tuple(planes), scale_OG, offset_OG, weight_OI, outputs, ONE, 0,
        WORDS=words, S=stride, F=field(len(planes)), BO=4, BW=wide, num_warps=4,
    )  # fmt: skip
    return weight_OI


def field(bits: int) -> int:
    """F: bits that a code takes up in a word."""
    return 2 if bits == 2 else 4 if bits <= 4 else 8
