"""Activations of one token as bytes, which the tensor cores multiply with codes twice as fast as halves.

The 128 columns of a tile are rounded to multiples of a unit of theirs, no more than 32,512, and these to two digits:

    x = unit (256 high + low),   high and low from -128 to 127,   unit = 2^(e-14) 128/127,   2^e <= max |x| < 2^(e+1)

so x is off by at most max |x| / 32,512 (2^e is taken as 2^-63 where it is less). As that maximum is at most 11.3 times
the root mean square of 128, a sum is off, at random, by 2e-4 of its usual size at most, and by 5e-5 where activations
are normal. Rounding it to float16 takes up to 5e-4.

A multiplication has eight columns for one token: both digits take two, and what is to be summed apart takes up to four
such pairs, places of fields (see `switchq.inference.gpu.vector_kernel`) or groups that have a scale each, CHUNKS in a
tile (0: a row has one scale). A digit is nought in the columns of others.

A thread rounds four columns, 2 l, 2 l + 1, and those 64 further on, for lane l = 16 p + 4 t + 2 s + e; its two words of
digits go through shared memory to the eight threads 4 g + t that multiply with them, in step 2 p + s.
"""

import triton
import triton.language as tl

from switchq.inference.gpu.memory import load_one
from switchq.inference.gpu.tensorcore import INTERPRETED, half

STEPS = tl.constexpr(4)
"""Multiplications of the tensor cores in a tile of columns."""

STRIDE = tl.constexpr(36)
"""Words from the digits of one kind to those of the next, so that both lie in banks of their own."""


@triton.constexpr_function
def place(step, fields):
    """The place in a byte of the fields of F bits that a step takes."""
    return 2 * step // fields


@triton.constexpr_function
def within(step, fields, chunks):
    """That place, of those that are summed in the same columns."""
    return place(step, fields) if chunks == 2 else step % 2 if chunks == 4 and fields == 2 else 0


@triton.jit
def place_unit(lane, CHUNKS: tl.constexpr, F: tl.constexpr):
    """What one in the sums of a thread's columns, 2 t and 2 t + 1, counts in units of the lowest place."""
    if CHUNKS == 2:
        bits = lane * 0
    elif CHUNKS == 4:
        bits = lane % 2 * (place(2, F) * F)
    else:
        bits = lane % 4 * F
    return ((127 - bits) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _mine(column, STEP: tl.constexpr, CHUNKS: tl.constexpr, F: tl.constexpr):
    """Whether the digits of a step count in a pair of columns."""
    if CHUNKS == 2:
        return column < 2
    elif CHUNKS == 4:
        return column % 2 == STEP // 2
    else:
        return column == place(STEP, F)


@triton.constexpr_function
def kinds(chunks):
    """How many kinds of digits there are: high and low ones, of each half of a word's four where groups part them."""
    return 4 if chunks > 1 else 2


@triton.jit
def _kind(column, digit, CHUNKS: tl.constexpr):
    """Which of them a column has."""
    if CHUNKS == 2:
        return digit * 2 + column % 2
    elif CHUNKS == 4:
        return digit * 2 + column // 2
    else:
        return digit


@triton.constexpr_function
def room(count):
    """Words of shared memory for a warp: so many kinds of digits, and a pair of zeros."""
    return STRIDE.value * count + 2


@triton.jit
def places(thread, CHUNKS: tl.constexpr, F: tl.constexpr, WARPS: tl.constexpr):
    """Addresses in shared memory: where a thread writes its digits, and where it reads those of each step.

    Four of steps; in the interpreter, which has no shared memory, nothing of use.
    """
    lane = thread % 32
    if INTERPRETED:
        return (lane,)
    else:
        KINDS: tl.constexpr = kinds(CHUNKS)
        at = tl.inline_asm_elementwise(
            _taken(room(KINDS), WARPS), "=&r,r", [thread], dtype=tl.int32, is_pure=False, pack=1
        )  # fmt: skip
        column, digit = lane // 4 // 2, lane // 4 % 2
        found = (at + 4 * (lane // 4 % 4 * 8 + lane // 16 * 4 + lane % 4),)
        for step in tl.static_range(STEPS):
            where = at + 4 * (STRIDE * _kind(column, digit, CHUNKS) + lane % 4 * 8 + step * 2)
            found = found + (tl.where(_mine(column, step, CHUNKS, F), where, at + 4 * STRIDE * KINDS),)
        return found


@triton.constexpr_function
def _taken(words, warps):
    """A lane of each warp writes its zeros."""
    return "{" + "\n".join((
        f".shared .align 16 .b8 digits[{4 * words * warps}];",
        ".reg .u32 at, lane; .reg .pred first;",
        "mov.u32 at, digits;",
        "shr.u32 lane, $1, 5;",
        f"mad.lo.u32 $0, lane, {4 * words}, at;",
        "and.b32 lane, $1, 31;",
        "setp.eq.u32 first, lane, 0;",
        f"@first st.shared.v2.b32 [$0 + {4 * words - 8}], {{0, 0}};",
    )) + "}"  # fmt: skip


@triton.jit
def load_columns(x_ptr, start, lane, IN: tl.constexpr, PAST: tl.constexpr):
    """A thread's four columns of the 128 from `start` on, two words: 2 lane and 2 lane + 1, and those 64 further on.

    Zeros from column IN on, if any lie there (PAST).
    """
    column = start + 2 * lane
    low = load_one((x_ptr + column).to(tl.pointer_type(tl.int32)), column < IN, PAST)
    high = load_one((x_ptr + column + 64).to(tl.pointer_type(tl.int32)), column + 64 < IN, PAST)
    return low, high


@triton.jit
def rounded(words, ready, WARPS: tl.constexpr, dtype: tl.constexpr):
    """The high digits of a thread's four columns, and the low ones, a word each, and the unit of the warp's columns.

    Digits are signed bytes, from the lowest on of columns c, c + 64, c + 1, c + 65. The unit is float32, and no number
    if one of the 128 activations is none or infinite: so are all results then.

    `ready`: 0, once everything is that is to be done before.
    """
    near, far = words[0] ^ ready, words[1] ^ ready
    a, b, c, d = half(near, 0, dtype), half(far, 0, dtype), half(near, 1, dtype), half(far, 1, dtype)
    most = _most(_most(tl.abs(a), tl.abs(b)), _most(tl.abs(c), tl.abs(d)))
    most = _over_lanes(most.to(tl.uint32, bitcast=True), WARPS)
    power = tl.maximum(most & 0x7F800000, (127 - 63) << 23)  # so that no unit is a subnormal number
    scale = ((268 << 23) - power).to(tl.float32, bitcast=True) * (127 / 128)
    nought = most.to(tl.float32, bitcast=True) * 0.0  # but not where one is infinite or no number
    unit = (power - (14 << 23)).to(tl.float32, bitcast=True) * (128 / 127) + nought
    left = _bytes(_steps(a, scale), _steps(b, scale), 0x5140)  # the lowest bytes of both, and then those above them
    right = _bytes(_steps(c, scale), _steps(d, scale), 0x5140)
    high, low = _bytes(left, right, 0x7632) ^ 0x80808080, _bytes(left, right, 0x5410) ^ 0x80808080
    return (high.to(tl.int32, bitcast=True), low.to(tl.int32, bitcast=True)), unit


@triton.jit
def _most(a, b):
    """The larger one, or what is no number."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _over_lanes(value, WARPS: tl.constexpr):
    """The largest of a warp's, none below 0."""
    if INTERPRETED:
        most = tl.max(tl.reshape(value, (WARPS, 32)), 1)
        return tl.reshape(tl.broadcast_to(most[:, None], (WARPS, 32)), (32 * WARPS,))
    else:
        return tl.inline_asm_elementwise(
            "redux.sync.max.u32 $0, $1, 0xffffffff;", "=r,r", [value], dtype=tl.uint32, is_pure=False, pack=1
        )  # fmt: skip


@triton.jit
def _steps(x, scale):
    """x scale, rounded, + 0x8080 in the lower half of a word: added to 1.5 x 2^23, it is the end of the mantissa."""
    return tl.fma(x, scale, tl.full(x.shape, float(3 << 22) + 0x8080, tl.float32)).to(tl.uint32, bitcast=True)


@triton.jit
def _bytes(a, b, ORDER: tl.constexpr):
    """Bytes of a, 0 to 3, and of b, 4 to 7, by their numbers, from the lowest on."""
    if INTERPRETED:
        word = a ^ a
        for k in tl.static_range(4):
            word |= (((a if (ORDER >> (4 * k)) & 4 == 0 else b) >> (8 * ((ORDER >> (4 * k)) & 3))) & 0xFF) << (8 * k)
        return word
    else:
        return tl.inline_asm_elementwise(
            _permutation(ORDER), "=r,r,r", [a, b], dtype=tl.uint32, is_pure=True, pack=1
        )  # fmt: skip


@triton.constexpr_function
def _permutation(order):
    return f"prmt.b32 $0, $1, $2, {order:#x};"


@triton.jit
def pairs(digits, at, lane, CHUNKS: tl.constexpr, F: tl.constexpr, WARPS: tl.constexpr):
    """What each of a tile's steps is multiplied with, two words; digits as of `rounded`, `at` as of `places`."""
    if INTERPRETED:
        return _emulated_pairs(digits, lane, CHUNKS, F, WARPS)
    else:
        words = tl.inline_asm_elementwise(
            _exchange(CHUNKS), "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r,r,r,r,r,r", (at[0],) + digits + at[1:],
            dtype=(tl.int32,) * 8, is_pure=False, pack=1,
        )  # fmt: skip
        return words[0:2], words[2:4], words[4:6], words[6:8]


@triton.constexpr_function
def _exchange(chunks):
    """Each lane writes its words to $8, and reads what it is to multiply with from $11 to $14."""
    lines = [".reg .b32 part;", "bar.warp.sync 0xffffffff;"]
    for number in range(kinds(chunks)):
        word = 9 + number * 2 // kinds(chunks)
        if chunks > 1:
            lines.append(f"and.b32 part, ${word}, {(0x00FF00FF, 0xFF00FF00)[number % 2]:#x};")
        else:
            lines.append(f"mov.b32 part, ${word};")
        lines.append(f"st.shared.b32 [$8 + {4 * STRIDE.value * number}], part;")
    lines.append("bar.warp.sync 0xffffffff;")
    lines += [f"ld.shared.v2.b32 {{${2 * step}, ${2 * step + 1}}}, [${11 + step}];" for step in range(STEPS.value)]
    return "{" + "\n".join(lines) + "}"


@triton.jit
def _emulated_pairs(digits, lane, CHUNKS: tl.constexpr, F: tl.constexpr, WARPS: tl.constexpr):
    """The same without shared memory."""
    group = lane // 4
    column = group // 2
    first = tl.arange(0, 32 * WARPS) // 32 * 32
    found = ()
    for step in tl.static_range(STEPS):
        two = ()
        for e in tl.static_range(2):
            from_ = first + step // 2 * 16 + lane % 4 * 4 + step % 2 * 2 + e
            word = tl.where(group % 2 == 0, tl.gather(digits[0], from_, 0), tl.gather(digits[1], from_, 0))
            if CHUNKS > 1:
                part = column % 2 if CHUNKS == 2 else column // 2
                word = tl.where(part == 0, word & 0x00FF00FF, word & -16711936)
            two = two + (tl.where(_mine(column, step, CHUNKS, F), word, 0),)
        found = found + (two,)
    return found
