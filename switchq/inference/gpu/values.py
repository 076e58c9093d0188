"""Codes as halves of a word that the tensor cores take: two codes by one masking.

Two codes u = code + 2^(b-1) lie in a word of fields of F bits (see `switchq.inference.gpu.decoding`). Turned so that a
field ends each half's lowest `taken` bits, or lies j fields below that, and masked, they are numbers:

    float16    u / 2^(F j + b) x 2^(taken - 24), a subnormal number, which tensor cores multiply as any other
    bfloat16   1 + u / 2^(F j + b), with 1 laid under the code: sums of its subnormal numbers would be too small

for place j; where a mantissa is shorter than a code, in two parts of it. In bfloat16 `taken` is the whole mantissa. In
float16 it is what the places take up, so that half of one word, where fields end with the last bit, is not turned.
Sums over a place are

    sum(u x) = unit (sum(value x) - under sum(x)),  under 0 or 1,  unit = 2^(F j + b + 24 - taken) or 2^(F j + b)
"""

import triton
import triton.language as tl

from switchq.inference.gpu.decoding import turned
from switchq.inference.gpu.tiles import COLUMNS

STEPS = tl.constexpr(COLUMNS // 16)
"""Multiplications of the tensor cores in a tile of columns."""


@triton.constexpr_function
def part_bits(part, bits, taken):
    """Bits of a part of a code: all, or where a mantissa is shorter, four and the others."""
    return bits if bits <= taken else bits - 4 if part else 4


@triton.constexpr_function
def place(q, fields, places):
    """The place j of bit q."""
    return places - 1 - q // fields % places


@triton.constexpr_function
def unit(j, part, bits, fields, taken, under):
    """What a sum of values of place j counts, in u."""
    return float(1 << (fields * j + bits - 4 * part + (0 if under else 24 - taken)))


@triton.jit
def values(words, Q: tl.constexpr, PART: tl.constexpr, under, TAKEN: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr,
           PLACES: tl.constexpr):  # fmt: skip
    """The two values of bits Q and Q + 16. Part 1: bits of a code after the first four."""
    wide: tl.constexpr = part_bits(PART, BITS, TAKEN)
    mask: tl.constexpr = (((1 << wide) - 1) << (TAKEN - F * place(Q, F, PLACES) - wide)) * 0x10001
    moved = turned(words[Q % F], Q + F * place(Q, F, PLACES) - 4 * PART - (TAKEN - 1))
    return ((moved & mask) | under).to(tl.int32, bitcast=True)


@triton.jit
def fragment(words, STEP: tl.constexpr, PART: tl.constexpr, under, TAKEN: tl.constexpr, BITS: tl.constexpr,
             F: tl.constexpr, PLACES: tl.constexpr):  # fmt: skip
    """The 16 x 16 values of a step that two rows of a thread have, as `tensorcore.multiply` takes them."""
    return (
        values(words[0], 2 * STEP, PART, under, TAKEN, BITS, F, PLACES),
        values(words[1], 2 * STEP, PART, under, TAKEN, BITS, F, PLACES),
        values(words[0], 2 * STEP + 1, PART, under, TAKEN, BITS, F, PLACES),
        values(words[1], 2 * STEP + 1, PART, under, TAKEN, BITS, F, PLACES),
    )


@triton.jit
def after(under, x, zero):
    """What lies under the codes, once all of x has come; x are words, four of each load side by side.

    What is multiplied needs it. Left to itself, the assembler puts every load off to where its value is used, and
    waits there for one after the other. It cannot know that `zero` is zero.
    """
    for k in tl.static_range(0, len(x), 4):
        under ^= x[k] & zero
    return under
