"""The kernel that multiplies one token's activations with b bit-planes on tensor cores, as bytes.

A program has DOWN tiles of 16 rows, each of its warps DEPTH tiles of columns at a time. One masking makes bytes of four
codes, as they lie in words of fields of F bits (see `switchq.inference.gpu.decoding`): the code u = code + 2^(b-1), at
place j of a byte, is

    u 2^(F j + F - b)

Activations are two digits of a byte, see `switchq.inference.gpu.digits`. A tile's sums are exact, int32; those of tiles
are added in float32. Another multiplication, by ones, gives sums of x, and

    y = sum over groups of  scale x sum(u x)  +  (offset - 2^(b-1) scale) x sum(x)

then + adapter + bias, GELU, + residual.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from switchq.inference.gpu.activation import gelu
from switchq.inference.gpu.decoding import code_words, load_levels, load_words, turned
from switchq.inference.gpu.digits import STEPS, load_columns, pairs, place_unit, places, rounded, within
from switchq.inference.gpu.memory import load_one
from switchq.inference.gpu.shared import leave, of_rows
from switchq.inference.gpu.tensorcore import INTERPRETED, multiply, multiply_bytes


@triton.constexpr_function
def _order(fields, chunks):
    """Steps as they are multiplied, from the highest place down, and how many bits sums are lowered by after each."""
    steps = sorted(range(STEPS.value), key=lambda step: -within(step, fields, chunks))
    following = [*(within(step, fields, chunks) for step in steps[1:]), 0]
    lower = [within(step, fields, chunks) - after for step, after in zip(steps, following, strict=True)]
    return [(step, fields * by) for step, by in zip(steps, lower, strict=True)]


@triton.constexpr_function
def _nth(number, fields, chunks):
    """The step that is multiplied after so many others, over one tile of columns after the other."""
    return _order(fields, chunks)[number % STEPS.value][0]


@triton.constexpr_function
def _tile(number):
    """The tile of columns whose step that is."""
    return number // STEPS.value


@triton.constexpr_function
def _lower(number, fields, chunks):
    """By how many bits sums are lowered after it."""
    return _order(fields, chunks)[number][1]


@triton.jit
def _value(words, Q: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr):
    """The codes of bits Q, Q + 8, Q + 16 and Q + 24, a byte each."""
    mask: tl.constexpr = (((1 << BITS) - 1) << (Q // F * F + F - BITS)) * 0x01010101
    return (turned(words[Q % F], Q % F - F + 1) & mask).to(tl.int32, bitcast=True)


@triton.jit
def _codes(fields, STEP: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr):
    """A step's, of all tiles of rows, as they are multiplied."""
    found = ()
    for m in tl.static_range(len(fields) // 2):
        found = found + ((
            _value(fields[2 * m], 2 * STEP, BITS, F), _value(fields[2 * m + 1], 2 * STEP, BITS, F),
            _value(fields[2 * m], 2 * STEP + 1, BITS, F), _value(fields[2 * m + 1], 2 * STEP + 1, BITS, F),
        ),)  # fmt: skip
    return found


@triton.jit
def _fields(words, F: tl.constexpr):
    """The words of codes of a tile's rows."""
    found = ()
    for e in tl.static_range(len(words)):
        found = found + (code_words(words[e], F),)
    return found


@triton.jit
def _made_early(words, COUNT: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr, CHUNKS: tl.constexpr):
    """The codes of the COUNT steps that are multiplied first, of one tile of columns after the other."""
    steps = ()
    for n in tl.static_range(COUNT):
        steps = steps + (_codes(_fields(words[_tile(n)], F), _nth(n, F, CHUNKS), BITS, F),)
    return steps


@triton.jit
def _ready(early, shared, x, zero):
    """0, once all early codes are made, it is known where digits lie, and all of x has come.

    What is done with x needs it. Left to itself, the assembler puts loads and codes off to where they are used. It
    cannot know that `zero` is zero.
    """
    made = zero
    for k in tl.static_range(len(shared)):
        made += shared[k]
    for n in tl.static_range(len(early)):
        for m in tl.static_range(len(early[n])):
            for k in tl.static_range(4):
                made += early[n][m][k]
    made &= zero
    for d in tl.static_range(1, len(x)):
        made |= (x[d][0] | x[d][1]) & zero
    return made


@triton.jit
def _lowered(sums, BY: tl.constexpr):
    """Sums in units that are 2^BY times as large; they are multiples of these."""
    new = ()
    for m in tl.static_range(len(sums)):
        new = new + ((sums[m][0] >> BY, sums[m][1] >> BY, sums[m][2] >> BY, sums[m][3] >> BY),)
    return new


@triton.jit
def _step(sums, total, fields, early, x, ones, N: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr,
          CHUNKS: tl.constexpr):  # fmt: skip
    """The sums of rows, and those of x, with those of the N-th step added."""
    STEP: tl.constexpr = _nth(N, F, CHUNKS)
    LOWER: tl.constexpr = _lower(N, F, CHUNKS)
    codes = early[N] if len(early) > N else _codes(fields, STEP, BITS, F)
    new = ()
    for m in tl.static_range(len(sums)):
        new = new + (multiply_bytes(codes[m], x[STEP], sums[m]),)
    total = multiply_bytes((ones, ones, ones, ones), x[STEP], total)
    return _lowered(new, LOWER) if LOWER > 0 else new, total


@triton.jit
def _multiplied(fields, early, x, zero, DOWN: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr,
                CHUNKS: tl.constexpr):  # fmt: skip
    """Of a tile, each row's sums of both digits, and those of x.

    `early`: the codes of those steps that come first in `_order`, if they are made.
    """
    none = (zero, zero, zero, zero)
    sums, total = (none,) * DOWN, none
    for n in tl.static_range(STEPS):
        sums, total = _step(sums, total, fields, early, x, zero | 0x01010101, n, BITS, F, CHUNKS)
    return sums, total


@triton.jit
def _joined(high, low):
    """The sum of which those of both digits are parts, float32."""
    return (high * 256 + low).to(tl.float32)


@triton.jit
def _rows(sums, unit):
    """Each row's sum of u x."""
    found = ()
    for m in tl.static_range(len(sums)):
        found = found + (_joined(sums[m][0], sums[m][1]) * unit, _joined(sums[m][2], sums[m][3]) * unit)
    return found


@triton.jit
def _added(sums, more):
    """Their sums."""
    new = ()
    for i in tl.static_range(len(sums)):
        new = new + (sums[i] + more[i],)
    return new


@triton.jit
def _scaled(coded, total, levels, BITS: tl.constexpr):
    """What rows' sums of u x and those of x give; levels: scale and offset of each row."""
    scales, offsets = levels
    new = ()
    for i in tl.static_range(len(coded)):
        shift = offsets[i] - float(1 << (BITS - 1)) * scales[i]
        new = new + (scales[i] * coded[i] + shift * total,)
    return new


@triton.constexpr_function
def _past(d, columns, warps, depth):
    """Whether a warp's d-th tile of a round may lie past the columns; in the last round."""
    whole = 128 * warps * depth
    return (columns - 1) // whole * whole + 128 * warps * (d + 1) > columns


@triton.jit
def _adapted(sums, u_ptr, high_ptr, rows, warp, lane, OUT, RANK: tl.constexpr, USED: tl.constexpr):
    """Sums of rows with the adapter's added, by one thread of each: a warp has every USED-th sixteen of the ranks."""
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    for first in tl.static_range(0, RANK, 16 * USED):
        rank = first + 16 * warp + lane % 4 * 2
        b = ()
        for k in tl.static_range(2):
            at = (u_ptr + rank + 8 * k).to(tl.pointer_type(tl.int32))
            b = b + (load_one(at, (lane < 4) & (rank + 8 * k < RANK)),)  # the first column is the token
        new = ()
        for m in tl.static_range(len(sums) // 2):
            a = ()
            for k in tl.static_range(2):
                for e in tl.static_range(2):
                    row = rows + 16 * m + 8 * e
                    at = (high_ptr + row * RANK + rank + 8 * k).to(tl.pointer_type(tl.int32))
                    a = a + (load_one(at, (row < OUT) & (rank + 8 * k < RANK)),)
            four = (sums[2 * m], sums[2 * m], sums[2 * m + 1], sums[2 * m + 1])
            found = multiply(a, b, four, dtype)
            new = new + (found[0], found[2])
        sums = new
    return sums


@triton.jit(do_not_specialize=["nothing"])
def vector_kernel(
    x_ptr, planes, level_ptr, bias_ptr, u_ptr, high_ptr, residual_ptr, y_ptr, OUT, nothing,
    IN: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, F: tl.constexpr,
    BIAS: tl.constexpr, LOW: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
    DOWN: tl.constexpr, WARPS: tl.constexpr, DEPTH: tl.constexpr, RANK: tl.constexpr, PDL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """y (O) = x (I) W^T + bias + adapter's u (R) high (R, O), then GELU, then + residual (O).

    Constants: F is `decoding.field` of the planes. CHUNK columns side by side in a tile share a scale, IN if a row has
    one. WARPS, DEPTH, DOWN and EARLY are those of `products.Tile`, others see `product_kernel`. The codes of a warp's
    first EARLY steps are made while the activations are on their way. `nothing` is 0, which the assembler must not
    know.
    """
    BITS: tl.constexpr = len(planes)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    TILES: tl.constexpr = (IN + 127) // 128
    GROUPS: tl.constexpr = IN // GROUP
    ROUND: tl.constexpr = WARPS * DEPTH
    USED: tl.constexpr = min(WARPS, TILES)
    READING: tl.constexpr = WARPS if INTERPRETED else USED  # in the interpreter no warp leaves
    CHUNKS: tl.constexpr = 0 if CHUNK == IN else 128 // CHUNK
    thread = tl.arange(0, 32 * WARPS)
    if USED < WARPS:
        leave(thread, 32 * USED)
    warp, lane = thread // 32, thread % 32
    none, zero = tl.zeros((32 * WARPS,), tl.int32), tl.zeros((32 * WARPS,), tl.float32)
    coded, total = (zero,) * (2 * DOWN), zero
    of_place = place_unit(lane, CHUNKS, F) * (1 / (1 << (F - BITS)))
    shared = places(thread, CHUNKS, F, USED)
    if PDL:
        gdc_launch_dependents()
    first_tile = DOWN * tl.program_id(0)
    row = first_tile * 16 + thread
    mine = (thread < 16 * DOWN) & (row < OUT)
    bias = tl.load(bias_ptr + row, mask=mine, other=0.0) if BIAS else zero
    of_row = load_levels(level_ptr, first_tile, 0, lane, GROUPS, DOWN) if CHUNKS == 0 else ()
    at = (first_tile * TILES + warp) * 64 + lane * 2
    for first in range(0, TILES, ROUND):
        words, levels = (), ()
        for d in tl.static_range(DEPTH):
            tile = first + d * WARPS + warp
            tile_at = at + (first + d * WARPS) * 64
            words = words + (
                load_words(planes, tile_at, tile < TILES, DOWN, TILES * 64, _past(d, 128 * TILES, READING, DEPTH)),
            )
            if CHUNKS > 0:
                chunk = tl.minimum(lane % 4, CHUNKS - 1) * CHUNK
                group = tl.minimum((tile * 128 + chunk) // GROUP, GROUPS - 1)
                levels = levels + (load_levels(level_ptr, first_tile, group, lane, GROUPS, DOWN),)
        if PDL:
            gdc_wait()  # all that came before is weights, which no kernel writes
        x = ()
        for d in tl.static_range(DEPTH):
            start = (first + d * WARPS + warp) * 128
            x = x + (load_columns(x_ptr, start, lane, IN, _past(d, IN, READING, DEPTH)),)
        early = _made_early(words, EARLY, BITS, F, CHUNKS)
        ready = _ready(early, shared, x, none + nothing)
        for d in tl.static_range(DEPTH):
            digits, unit = rounded(x[d], ready, WARPS, dtype)
            x_pairs = pairs(digits, shared, lane, CHUNKS, F, WARPS)
            sums, tile_total = _multiplied(
                _fields(words[d], F), early[STEPS * d : STEPS * d + STEPS], x_pairs, none, DOWN, BITS, F, CHUNKS
            )  # fmt: skip
            found = _rows(sums, unit * of_place)
            of_x = _joined(tile_total[0], tile_total[1]) * unit
            if CHUNKS > 0:
                coded = _added(coded, _scaled(found, of_x, levels[d], BITS))
            else:
                coded, total = _added(coded, found), total + of_x
    sums = coded if CHUNKS > 0 else _scaled(coded, total, of_row, BITS)
    if LOW:
        sums = _adapted(sums, u_ptr, high_ptr, first_tile * 16 + lane // 4, warp, lane, OUT, RANK, USED)
    y = of_rows(sums, thread, USED, WARPS, DOWN)
    if BIAS:
        y += bias.to(tl.float32)
    if GELU:
        y = gelu(y)
    if RESIDUAL:
        y += tl.load(residual_ptr + row, mask=mine, other=0.0).to(tl.float32)
    tl.store(y_ptr + row, y.to(y_ptr.dtype.element_ty), mask=mine)
