"""Reading b bit-planes in Triton: codes as floats in a register, and a whole weight decoded.

b planes give, by shifts and masks alone, words whose fields of F = 2, 4 or 8 bits hold the codes of 32 / F columns
each. A field is masked where it is, at place s of the upper half of a float's mantissa, and 2^23 laid under it:

    value = 2^23 + (code + 2^(b-1)) 2^s        value x 2^-s = code + start,   start = 2^(23-s) + 2^(b-1)

so that a weight costs one logic operation and a quarter to a half of a shift.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

MAGIC = 0x4B000000
"""2^23 as float32. A kernel is given it as a number that it cannot know, which leaves it in a register.

`zero`, another such number, keeps Triton from giving a thread several neighbours: a thread has one word of a row, and
what it loads and stores beside it is laid out alike."""


@triton.jit
def _place(plane, TO: tl.constexpr, R: tl.constexpr, F: tl.constexpr):
    """Bits R, R + F, R + 2 F, ... of a plane, at TO, TO + F, TO + 2 F, ..."""
    ones: tl.constexpr = 0x55555555 if F == 2 else (0x11111111 if F == 4 else 0x01010101)
    mask: tl.constexpr = ones << TO
    return (plane << (TO - R) if TO >= R else plane >> (R - TO)) & mask


@triton.jit
def code_word(p0, p1, p2, p3, p4, p5, p6, p7, R: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr):
    """The word of code + 2^(BITS - 1) of columns R, R + F, R + 2 F, ...: the sign bit turned over."""
    word = _place(p0 ^ 0xFFFFFFFF, BITS - 1, R, F) | _place(p1, BITS - 2, R, F)
    if BITS > 2:
        word |= _place(p2, BITS - 3, R, F)
    if BITS > 3:
        word |= _place(p3, BITS - 4, R, F)
    if BITS > 4:
        word |= _place(p4, BITS - 5, R, F)
    if BITS > 5:
        word |= _place(p5, BITS - 6, R, F)
    if BITS > 6:
        word |= _place(p6, BITS - 7, R, F)
    if BITS > 7:
        word |= _place(p7, BITS - 8, R, F)
    return word


@triton.jit
def load_words(p0, p1, p2, p3, p4, p5, p6, p7, at, mask, BITS: tl.constexpr):
    """The words at `at` of the first BITS planes; the others repeat the first."""
    w0 = tl.load(p0 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    w1 = tl.load(p1 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    w2, w3, w4, w5, w6, w7 = w0, w0, w0, w0, w0, w0
    if BITS > 2:
        w2 = tl.load(p2 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    if BITS > 3:
        w3 = tl.load(p3 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    if BITS > 4:
        w4 = tl.load(p4 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    if BITS > 5:
        w5 = tl.load(p5 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    if BITS > 6:
        w6 = tl.load(p6 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    if BITS > 7:
        w7 = tl.load(p7 + at, mask=mask, other=0).to(tl.uint32, bitcast=True)
    return w0, w1, w2, w3, w4, w5, w6, w7


@triton.jit
def decode(word, magic, AT: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr):
    """Field AT of a word of `code_word`, (value, unit, start) with code = value x unit - start; value is float32."""
    together: tl.constexpr = 1 if F == 8 else (2 if F == 4 else 5)
    low: tl.constexpr = 23 - F * together
    shift: tl.constexpr = low - F * together * (AT // together)
    s: tl.constexpr = low + F * (AT % together)
    mask: tl.constexpr = ((1 << BITS) - 1) << s
    unit: tl.constexpr = 1.0 / (1 << s)
    start: tl.constexpr = float((1 << (23 - s)) + (1 << (BITS - 1)))
    moved = word << shift if shift > 0 else word >> -shift
    return ((moved & mask) | magic).to(tl.float32, bitcast=True), unit, start


@triton.jit(do_not_specialize=["word_stride", "magic", "zero"])
def _weight(
    p0, p1, p2, p3, p4, p5, p6, p7, scale_ptr, offset_ptr, weight_ptr, OUT, word_stride, magic, zero,
    WORDS: tl.constexpr, S: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr, BO: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """weight (O, I) = code x scale + offset."""
    rows_O = (tl.program_id(0) * BO + tl.arange(0, BO))[:, None]
    words_W = (tl.program_id(1) * BW + tl.arange(0, BW))[None, :]
    mask = (rows_O < OUT) & (words_W < WORDS)
    w0, w1, w2, w3, w4, w5, w6, w7 = load_words(
        p0, p1, p2, p3, p4, p5, p6, p7, rows_O * word_stride + words_W, mask, BITS
    )
    level, held = rows_O * (WORDS // S) + words_W // S, mask
    if S == WORDS:
        level, held = rows_O, rows_O < OUT
    scale = tl.load(scale_ptr + level, mask=held, other=0.0).to(tl.float32)
    offset = tl.load(offset_ptr + level, mask=held, other=0.0).to(tl.float32)
    place = weight_ptr + zero + rows_O * (WORDS * 32) + (words_W // S) * (32 * S) + words_W % S
    for r in tl.static_range(F):
        word = code_word(w0, w1, w2, w3, w4, w5, w6, w7, r, BITS, F)
        for i in tl.static_range(32 // F):
            value, unit, start = decode(word, magic, i, BITS, F)
            level = (value * unit - start) * scale + offset
            tl.store(place + (i * F + r) * S, level.to(weight_ptr.dtype.element_ty), mask=mask)


def weight(planes: Sequence[Tensor], scale_OG: Tensor, offset_OG: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """The weight (O, I) in `dtype`."""
    outputs, words = planes[0].shape
    weight_OI = torch.empty(outputs, words * 32, dtype=dtype, device=planes[0].device)
    bits, wide = len(planes), 32
    _weight[(triton.cdiv(outputs, 4), triton.cdiv(words, wide))](
        *eight(planes), scale_OG, offset_OG, weight_OI, outputs, words, MAGIC, 0,
        WORDS=words, S=stride, BITS=bits, F=field(bits), BO=4, BW=wide, num_warps=4,
    )  # fmt: skip
    return weight_OI


def field(bits: int) -> int:
    """F: bits that a code takes up in a word."""
    return 2 if bits == 2 else 4 if bits <= 4 else 8


def eight(planes: Sequence[Tensor]) -> list[Tensor]:
    """Eight pointers for a kernel, which reads as many as there are planes."""
    return [*planes, *[planes[0]] * (8 - len(planes))]
