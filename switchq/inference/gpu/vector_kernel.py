"""The kernel that multiplies one token's activations with b bit-planes.

As in `gpu.product_kernel`, but what that does for eight tokens is left out. A program has DOWN tiles of 16 rows, each
of its warps DEPTH tiles of columns at a time. All columns of a multiplication are the token, and the first counts.
Another multiplication, of x by ones, gives every thread the sum of 32 columns, and

    y = sum over groups of  scale x sum(u x)  +  (offset - zero scale) x sum(x)

with zero = 2^(b-1) and what lies under codes; then + adapter + bias, GELU, + residual.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from switchq.inference.gpu.activation import gelu
from switchq.inference.gpu.decoding import code_words, load_levels, load_words
from switchq.inference.gpu.memory import load_four, load_one
from switchq.inference.gpu.shared import leave, of_rows
from switchq.inference.gpu.tensorcore import INTERPRETED, multiply
from switchq.inference.gpu.values import STEPS, after, fragment, place, unit


@triton.jit
def _activations(x_at, left, PAST: tl.constexpr):
    """Those of a tile: two words for every step; `left` columns are there."""
    words = ()
    for p in tl.static_range(STEPS // 2):
        words = words + load_four((x_at + 32 * p).to(tl.pointer_type(tl.int32)), 32 * p < left, PAST)
    return words


@triton.constexpr_function
def _order(begin, span, fields, places, share):
    """SPAN steps from BEGIN on as they are multiplied, and how many places lower the next one is.

    Places that share a sum take turns, the last one first: each counts 2^F times the one before it. What follows the
    last step is the sum's lowest place.
    """

    def within(step):
        return place(2 * step, fields, places) % share

    steps = sorted(range(begin, begin + span), key=lambda step: -within(step))
    following = [*(within(step) for step in steps[1:]), 0]
    return [(step, within(step) - lower) for step, lower in zip(steps, following, strict=True)]


@triton.constexpr_function
def _nth(number, begin, span, fields, places, share):
    """The step that is multiplied after so many others."""
    return _order(begin, span, fields, places, share)[number][0]


@triton.constexpr_function
def _factor(number, begin, span, fields, places, share):
    """What sums are multiplied by after that step, to be in units of the next one's place."""
    return float(1 << (fields * _order(begin, span, fields, places, share)[number][1]))


@triton.jit
def _codes(words, under, STEP: tl.constexpr, F: tl.constexpr, BITS: tl.constexpr, TAKEN: tl.constexpr,
           PLACES: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """A step's, of all tiles of rows and both parts, as they are multiplied."""
    found = ()
    for i in tl.static_range(len(words) // 2 * SPLIT):
        rows = words[i // SPLIT * 2 : i // SPLIT * 2 + 2]
        found = found + (fragment(rows, STEP, i % SPLIT, under, TAKEN, BITS, F, PLACES),)
    return found


@triton.jit
def _step(
    parts, total, words, early, x, under, ones, N: tl.constexpr, BEGIN: tl.constexpr, SPAN: tl.constexpr,
    F: tl.constexpr, BITS: tl.constexpr, TAKEN: tl.constexpr, PLACES: tl.constexpr, SPLIT: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """The sums, those of its place and now and then those of x, with those of the N-th step added."""
    SHARE: tl.constexpr = PLACES // len(parts)
    STEP: tl.constexpr = _nth(N, BEGIN, SPAN, F, PLACES, SHARE)
    FACTOR: tl.constexpr = _factor(N, BEGIN, SPAN, F, PLACES, SHARE)
    C: tl.constexpr = place(2 * STEP, F, PLACES) // SHARE
    two = (x[2 * STEP], x[2 * STEP + 1])
    codes = early[N] if len(early) > N else _codes(words, under, STEP, F, BITS, TAKEN, PLACES, SPLIT)
    new = ()
    for i in tl.static_range(len(parts[C])):
        new = new + (multiply(codes[i], two, parts[C][i], dtype),)
    parts = parts[:C] + (new,) + parts[C + 1 :]
    if STEP % 2 == 1:
        total = multiply(x[2 * STEP - 2 : 2 * STEP + 2], (ones, ones), total, dtype)
    return _raised(parts, FACTOR) if FACTOR > 1 else parts, total


@triton.jit
def _fields(words, F: tl.constexpr):
    """The words of codes of a tile's rows."""
    found = ()
    for e in tl.static_range(len(words)):
        found = found + (code_words(words[e], F),)
    return found


@triton.jit
def _made_early(words, zero, COUNT: tl.constexpr, F: tl.constexpr, BITS: tl.constexpr, TAKEN: tl.constexpr,
                PLACES: tl.constexpr, SHARE: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """The codes of the COUNT steps that are multiplied first, with nothing under them."""
    steps = ()
    for n in tl.static_range(COUNT):
        steps = steps + (_codes(words, zero, _nth(n, 0, STEPS, F, PLACES, SHARE), F, BITS, TAKEN, PLACES, SPLIT),)
    return steps


@triton.jit
def _nought(early, zero, came):
    """0.0 for sums to begin with: no multiplication comes before all early codes are made and all of x is there.

    `zero` is 0, which the assembler does not know, and so is `came`, what `after` gives.
    """
    made = zero ^ zero
    for n in tl.static_range(len(early)):
        for i in tl.static_range(len(early[n])):
            for k in tl.static_range(4):
                made += early[n][i][k]
    return ((made & zero) | came).to(tl.float32, bitcast=True)


@triton.jit
def _raised(parts, BY: tl.constexpr):
    """Sums in units that are so many times as small; those of the first column."""
    raised = ()
    for c in tl.static_range(len(parts)):
        new = ()
        for i in tl.static_range(len(parts[c])):
            one = parts[c][i]
            new = new + ((one[0] * BY, one[1], one[2] * BY, one[3]),)
        raised = raised + (new,)
    return raised


@triton.jit
def _multiplied(
    parts, total, words, early, x, under, ones, BEGIN: tl.constexpr, SPAN: tl.constexpr, F: tl.constexpr,
    BITS: tl.constexpr, TAKEN: tl.constexpr, PLACES: tl.constexpr, SPLIT: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The sums of places, and those of x, with those of SPAN steps from BEGIN on added.

    `early`: the codes of those that come first in `_order`.
    """
    for n in tl.static_range(SPAN):
        parts, total = _step(
            parts, total, words, early, x, under, ones, n, BEGIN, SPAN, F, BITS, TAKEN, PLACES, SPLIT, dtype
        )  # fmt: skip
    return parts, total


@triton.jit
def _coded(coded, parts, F: tl.constexpr, BITS: tl.constexpr, TAKEN: tl.constexpr, PLACES: tl.constexpr,
           SPLIT: tl.constexpr, UNDER: tl.constexpr):  # fmt: skip
    """The sums of rows, in units of a code, with those of places added."""
    SHARE: tl.constexpr = PLACES // len(parts)
    new = ()
    for i in tl.static_range(len(coded)):
        one = coded[i]
        for c in tl.static_range(len(parts)):
            for part in tl.static_range(SPLIT):
                one += parts[c][i // 2 * SPLIT + part][i % 2 * 2] * unit(c * SHARE, part, BITS, F, TAKEN, UNDER)
        new = new + (one,)
    return new


@triton.jit
def _scaled(sums, coded, total, levels, ZERO_POINT: tl.constexpr):
    """The sums of rows with those of a group, scaled, added; levels: scale and offset of each row."""
    scales, offsets = levels
    new = ()
    for i in tl.static_range(len(sums)):
        shift = offsets[i] - ZERO_POINT * scales[i]
        new = new + (sums[i] + scales[i] * coded[i] + shift * (total[0] + total[2]),)
    return new


@triton.constexpr_function
def _zero_point(bits, fields, taken, split, under):
    """2^(b-1) and, in u, what lies under codes at one place: it is summed with each part."""
    laid = sum(unit(0, part, bits, fields, taken, True) for part in range(split)) if under else 0
    return float((1 << (bits - 1)) + laid)


@triton.constexpr_function
def _past(d, columns, warps, depth):
    """Whether a warp's d-th tile of a round may lie past the columns; in the last round."""
    whole = 128 * warps * depth
    return (columns - 1) // whole * whole + 128 * warps * (d + 1) > columns


@triton.jit
def _adapted(sums, u_ptr, high_ptr, rows, warp, lane, OUT, RANK: tl.constexpr, USED: tl.constexpr):
    """The sums of rows with the adapter's added: a warp has every USED-th sixteen of the ranks."""
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    for first in tl.static_range(0, RANK, 16 * USED):
        rank = first + 16 * warp + lane % 4 * 2
        b = ()
        for half in tl.static_range(2):
            at = (u_ptr + rank + 8 * half).to(tl.pointer_type(tl.int32))
            b = b + (load_one(at, rank + 8 * half < RANK),)
        new = ()
        for m in tl.static_range(len(sums) // 2):
            a = ()
            for half in tl.static_range(2):
                for e in tl.static_range(2):
                    row = rows + 16 * m + 8 * e
                    at = (high_ptr + row * RANK + rank + 8 * half).to(tl.pointer_type(tl.int32))
                    a = a + (load_one(at, (row < OUT) & (rank + 8 * half < RANK)),)
            four = (sums[2 * m], sums[2 * m], sums[2 * m + 1], sums[2 * m + 1])
            found = multiply(a, b, four, dtype)
            new = new + (found[0], found[2])
        sums = new
    return sums


@triton.jit(do_not_specialize=["under"])
def vector_kernel(
    x_ptr, planes, level_ptr, bias_ptr, u_ptr, high_ptr, residual_ptr, y_ptr, OUT, under,
    IN: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, F: tl.constexpr,
    BIAS: tl.constexpr, LOW: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
    PLACES: tl.constexpr, SUMS: tl.constexpr, DOWN: tl.constexpr, WARPS: tl.constexpr, DEPTH: tl.constexpr,
    RANK: tl.constexpr, PDL: tl.constexpr, TAKEN: tl.constexpr, UNDER: tl.constexpr, ONES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """y (O) = x (I) W^T + bias + adapter's u (R) high (R, O), then GELU, then + residual (O).

    Constants: see `product_kernel`. PLACES is 1 where something lies under codes; SUMS, a divisor of it, is how many
    sums the places have, neighbours one together. The codes of a tile's first EARLY steps are made while the
    activations are on their way.
    """
    BITS: tl.constexpr = len(planes)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    SPLIT: tl.constexpr = 1 if BITS <= TAKEN else 2
    TILES: tl.constexpr = (IN + 127) // 128
    GROUPS: tl.constexpr = IN // GROUP
    ROUND: tl.constexpr = WARPS * DEPTH
    ZERO_POINT: tl.constexpr = _zero_point(BITS, F, TAKEN, SPLIT, UNDER != 0)
    USED: tl.constexpr = min(WARPS, TILES)
    READING: tl.constexpr = WARPS if INTERPRETED else USED  # in the interpreter no warp leaves
    CHUNKS: tl.constexpr = 0 if CHUNK == IN else 128 // CHUNK
    SPAN: tl.constexpr = STEPS // max(CHUNKS, 1)
    tl.static_assert(EARLY == 0 or (CHUNKS == 0 and UNDER == 0 and TILES <= WARPS and DEPTH == 1))
    thread = tl.arange(0, 32 * WARPS)
    if USED < WARPS:
        leave(thread, 32 * USED)
    warp, lane = thread // 32, thread % 32
    laid = tl.full((32 * WARPS,), 0, tl.int32) + under.to(tl.int32)
    zero = tl.zeros((32 * WARPS,), tl.float32)
    ones = tl.full((32 * WARPS,), ONES, tl.int32)
    none, rows = (((zero, zero, zero, zero),) * (DOWN * SPLIT),) * SUMS, (zero,) * (2 * DOWN)
    parts, total, coded, sums = none, (zero, zero, zero, zero), rows, rows
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
            for chunk in tl.static_range(CHUNKS):
                group = tl.minimum((tile * 128 + chunk * CHUNK) // GROUP, GROUPS - 1)
                levels = levels + (load_levels(level_ptr, first_tile, group, lane, GROUPS, DOWN),)
        if PDL:
            gdc_wait()  # all that came before is weights, which no kernel writes
        x = ()
        for d in tl.static_range(DEPTH):
            column = (first + d * WARPS + warp) * 128 + lane % 4 * 8
            x = x + (_activations(x_ptr + column, IN - column, _past(d, IN, READING, DEPTH)),)
        zeros = laid
        for d in tl.static_range(DEPTH):
            laid = after(laid, x[d], under ^ UNDER)
        early = ()
        if EARLY > 0:
            fields = _fields(words[0], F)
            early = _made_early(fields, zero.to(tl.int32), EARLY, F, BITS, TAKEN, PLACES, PLACES // SUMS, SPLIT)
            nought = _nought(early, zeros, laid)
            laid = zero.to(tl.int32)  # sums hang on x, so codes need not
            parts, total = (((nought,) * 4,) * (DOWN * SPLIT),) * SUMS, (nought,) * 4
        for d in tl.static_range(DEPTH):
            fields = _fields(words[d], F)
            for begin in tl.static_range(0, STEPS, SPAN):
                parts, total = _multiplied(
                    parts, total, fields, early, x[d], laid, ones, begin, SPAN, F, BITS, TAKEN, PLACES, SPLIT, dtype
                )  # fmt: skip
                if CHUNKS > 0 or SUMS < PLACES:
                    coded = _coded(coded, parts, F, BITS, TAKEN, PLACES, SPLIT, UNDER != 0)
                    parts = none
                if CHUNKS > 0:
                    sums = _scaled(sums, coded, total, levels[d * CHUNKS + begin // SPAN], ZERO_POINT)
                    coded, total = rows, (zero, zero, zero, zero)
    if CHUNKS == 0:
        if SUMS == PLACES:
            coded = _coded(coded, parts, F, BITS, TAKEN, PLACES, SPLIT, UNDER != 0)
        sums = _scaled(sums, coded, total, of_row, ZERO_POINT)
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
