"""The kernel that multiplies activations with b bit-planes on tensor cores; planes as `gpu.tiles` lays them.

A program has 32 rows of the weight; its warps share the columns. Codes become values as `gpu.values` says, one more
multiplication by ones gives the sums of x, and

    y = sum over groups of  scale x sum(u x)  +  (offset - 2^(b-1) scale) x sum(x)

Sums are float32. The adapter's ranks are more columns, in the same sums. Then + bias, activation, + residual.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from switchq.inference.gpu.activation import gelu
from switchq.inference.gpu.decoding import code_words, load_levels, load_words
from switchq.inference.gpu.memory import load_four, load_one
from switchq.inference.gpu.shared import over_warps
from switchq.inference.gpu.tensorcore import multiply
from switchq.inference.gpu.values import STEPS, after, fragment, place, unit


@triton.jit
def _coded(parts, totals, SLOT: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr,
           TAKEN: tl.constexpr, SPLIT: tl.constexpr, NT: tl.constexpr, UNDER: tl.constexpr):  # fmt: skip
    """The sum of code x, and that of x; SLOT is that of 16 rows and 8 tokens."""
    total = totals[0][N][C]
    for j in tl.static_range(1, len(totals)):
        total += totals[j][N][C]
    coded = total * (-float(1 << (BITS - 1)))
    for j in tl.static_range(len(parts)):
        for part in tl.static_range(SPLIT):
            value = parts[j][SLOT + part * NT][C]
            if UNDER:
                value -= totals[j][N][C]
            coded += value * unit(j, part, BITS, F, TAKEN, UNDER)
    return coded, total


@triton.jit
def _zeros(threads: tl.constexpr, COUNT: tl.constexpr):
    """COUNT times four sums."""
    zero = tl.zeros((threads,), tl.float32)
    return ((zero, zero, zero, zero),) * COUNT


@triton.jit
def _begun(bias_ptr, rows, warp, OUT, NT: tl.constexpr):
    """Sums that begin, in the first warp, with the bias."""
    sums = ()
    for m in tl.static_range(2):
        row = rows + 16 * m
        top = tl.load(bias_ptr + row, mask=(warp == 0) & (row < OUT), other=0.0).to(tl.float32)
        low = tl.load(bias_ptr + row + 8, mask=(warp == 0) & (row + 8 < OUT), other=0.0).to(tl.float32)
        sums = sums + ((top, top, low, low),) * NT
    return sums


@triton.jit
def _activations(x_ptr, x_stride, tokens, last, start, lane, IN: tl.constexpr, PAST: tl.constexpr, NT: tl.constexpr):
    """Those that a tile's columns are multiplied with: a tuple for every eight tokens, of two words for every step."""
    x = ()
    for n in tl.static_range(NT):
        token = tl.minimum(tokens + 8 * n + lane // 4, last)  # results past the last one are dropped
        words = ()
        for p in tl.static_range(STEPS // 2):
            column = start + 32 * p
            at = (x_ptr + token * x_stride + column + lane % 4 * 8).to(tl.pointer_type(tl.int32))
            words = words + load_four(at, column < IN, PAST)
        x = x + (words,)
    return x


@triton.jit
def _step(
    parts, totals, words, x, under, ones,
    STEP: tl.constexpr, F: tl.constexpr, BITS: tl.constexpr, TAKEN: tl.constexpr, PLACES: tl.constexpr,
    SPLIT: tl.constexpr, NT: tl.constexpr, UNDER: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The sums of each place, and those of x, with those of 16 columns added."""
    J: tl.constexpr = place(2 * STEP, F, PLACES)
    T: tl.constexpr = J if UNDER else 0
    new_totals = ()
    for n in tl.static_range(NT):
        two = (x[n][2 * STEP], x[n][2 * STEP + 1])
        new_totals = new_totals + (multiply((ones, ones, ones, ones), two, totals[T][n], dtype),)
    new = ()
    for m in tl.static_range(2):
        for part in tl.static_range(SPLIT):
            a = fragment(words[2 * m : 2 * m + 2], STEP, part, under, TAKEN, BITS, F, PLACES)
            for n in tl.static_range(NT):
                two = (x[n][2 * STEP], x[n][2 * STEP + 1])
                new = new + (multiply(a, two, parts[J][(m * SPLIT + part) * NT + n], dtype),)
    return parts[:J] + (new,) + parts[J + 1 :], totals[:T] + (new_totals,) + totals[T + 1 :]


@triton.jit
def _tile(
    sums, parts, totals, planes, x, start, level_ptr, lane, under, ones,
    IN: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, F: tl.constexpr, BITS: tl.constexpr,
    TAKEN: tl.constexpr, PLACES: tl.constexpr, SPLIT: tl.constexpr, NT: tl.constexpr, UNDER: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """The sums with those of a tile added."""
    words = ()
    for e in tl.static_range(4):
        words = words + (code_words(planes[e], F),)
    for i in tl.static_range(STEPS):
        parts, totals = _step(parts, totals, words, x, under, ones, i, F, BITS, TAKEN, PLACES, SPLIT, NT, UNDER, dtype)
        if CHUNK != IN and (16 * i + 16) % CHUNK == 0:
            group = tl.minimum((start + 16 * i) // GROUP, IN // GROUP - 1)
            scales, offsets = load_levels(level_ptr, 2 * tl.program_id(0), group, lane, IN // GROUP, 2)
            sums = _scaled(sums, parts, totals, scales, offsets, BITS, F, TAKEN, SPLIT, NT, UNDER)
            parts = (_zeros(lane.numel, 2 * SPLIT * NT),) * PLACES
            totals = (_zeros(lane.numel, NT),) * len(totals)
    return sums, parts, totals


@triton.jit
def _scaled(
    sums, parts, totals, scales, offsets,
    BITS: tl.constexpr, F: tl.constexpr, TAKEN: tl.constexpr, SPLIT: tl.constexpr, NT: tl.constexpr,
    UNDER: tl.constexpr,
):  # fmt: skip
    """The sums with those of a group, scaled, added."""
    added = ()
    for m in tl.static_range(2):
        for n in tl.static_range(NT):
            new = ()
            for c in tl.static_range(4):
                coded, total = _coded(parts, totals, m * SPLIT * NT + n, n, c, BITS, F, TAKEN, SPLIT, NT, UNDER)
                scaled = coded * scales[2 * m + c // 2] + total * offsets[2 * m + c // 2]
                new = new + (sums[m * NT + n][c] + scaled,)
            added = added + (new,)
    return added


@triton.jit
def _adapted(
    sums, u_ptr, high_ptr, rows, tokens, last, warp, lane, OUT,
    RANK: tl.constexpr, NT: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """The sums with those of the adapter, u high, added: a warp has every WARPS-th sixteen of its ranks."""
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    for first in tl.static_range(0, RANK, 16 * WARPS):
        rank = first + 16 * warp + lane % 4 * 2
        a = ()
        for e in tl.static_range(4):
            for half in tl.static_range(2):
                at = (high_ptr + (rows + 8 * e) * RANK + rank + 8 * half).to(tl.pointer_type(tl.int32))
                a = a + (load_one(at, (rows + 8 * e < OUT) & (rank + 8 * half < RANK)),)
        for n in tl.static_range(NT):
            token = tl.minimum(tokens + 8 * n + lane // 4, last)
            b = ()
            for half in tl.static_range(2):
                at = (u_ptr + token * RANK + rank + 8 * half).to(tl.pointer_type(tl.int32))
                b = b + (load_one(at, rank + 8 * half < RANK),)
            top = multiply((a[0], a[2], a[1], a[3]), b, sums[n], dtype)
            low = multiply((a[4], a[6], a[5], a[7]), b, sums[NT + n], dtype)
            sums = sums[:n] + (top,) + sums[n + 1 : NT + n] + (low,) + sums[NT + n + 1 :]
    return sums


@triton.jit(do_not_specialize=["under"])
def product_kernel(
    x_ptr, planes, level_ptr, bias_ptr, u_ptr, high_ptr, residual_ptr, y_ptr,
    N, OUT, x_stride, under,
    IN: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, F: tl.constexpr,
    BIAS: tl.constexpr, LOW: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
    PLACES: tl.constexpr, NT: tl.constexpr, WARPS: tl.constexpr, DEPTH: tl.constexpr,
    RANK: tl.constexpr, PDL: tl.constexpr, TAKEN: tl.constexpr, UNDER: tl.constexpr, ONES: tl.constexpr,
):  # fmt: skip
    """y (N, O) = x (N, I) W^T + bias + adapter's u (N, R) high (R, O), then GELU, then + residual (N, O).

    A scale has GROUP columns; CHUNK of them are summed before they are scaled, IN if a row has one scale. F, PLACES,
    TAKEN: see `switchq.inference.gpu.values`. ONES are 1 in both halves of a word. UNDER, what lies under codes, comes
    once more as `under`, which the compiler cannot know: it stays in a register.
    """
    BITS: tl.constexpr = len(planes)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    SPLIT: tl.constexpr = 1 if BITS <= TAKEN else 2
    TILES: tl.constexpr = (IN + 127) // 128
    PAST: tl.constexpr = IN % (128 * WARPS * DEPTH) != 0
    thread = tl.arange(0, 32 * WARPS)
    warp, lane = thread // 32, thread % 32
    rows = tl.program_id(0) * 32 + lane // 4
    laid = tl.full((32 * WARPS,), 0, tl.int32) + under.to(tl.int32)
    ones = tl.full((32 * WARPS,), ONES, tl.int32)
    sums = _begun(bias_ptr, rows, warp, OUT, NT) if BIAS else _zeros(32 * WARPS, 2 * NT)
    parts = (_zeros(32 * WARPS, 2 * SPLIT * NT),) * PLACES
    totals = (_zeros(32 * WARPS, NT),) * (PLACES if UNDER else 1)
    if PDL:
        gdc_launch_dependents()
    scales, offsets = (), ()
    if CHUNK == IN:
        scales, offsets = load_levels(level_ptr, 2 * tl.program_id(0), 0, lane, 1, 2)
    for first in range(0, TILES, WARPS * DEPTH):
        words = ()
        for d in tl.static_range(DEPTH):
            tile = first + d * WARPS + warp
            at = (2 * tl.program_id(0) * TILES + tile) * 64 + lane * 2
            words = words + (load_words(planes, at, tile < TILES, 2, TILES * 64, TILES % (WARPS * DEPTH) != 0),)
        if PDL:
            gdc_wait()  # all that came before is weights, which no kernel writes
        x = ()
        for d in tl.static_range(DEPTH):
            start = (first + d * WARPS + warp) * 128
            x = x + (_activations(x_ptr, x_stride, tl.program_id(1) * (8 * NT), N - 1, start, lane, IN, PAST, NT),)
        for d in tl.static_range(DEPTH):
            for n in tl.static_range(NT):
                laid = after(laid, x[d][n], under ^ UNDER)
        for d in tl.static_range(DEPTH):
            start = (first + d * WARPS + warp) * 128
            sums, parts, totals = _tile(
                sums, parts, totals, words[d], x[d], start, level_ptr, lane, laid, ones,
                IN, GROUP, CHUNK, F, BITS, TAKEN, PLACES, SPLIT, NT, UNDER != 0, dtype,
            )  # fmt: skip
    if CHUNK == IN:
        sums = _scaled(sums, parts, totals, scales, offsets, BITS, F, TAKEN, SPLIT, NT, UNDER != 0)
    if LOW:
        sums = _adapted(
            sums, u_ptr, high_ptr, rows, tl.program_id(1) * (8 * NT), N - 1, warp, lane, OUT, RANK, NT, WARPS
        )
    for n in tl.static_range(NT):
        found = over_warps(sums[n] + sums[NT + n], thread, WARPS)
        for i in tl.static_range(len(found)):
            value = warp + i * WARPS  # eights of rows, columns
            row = tl.program_id(0) * 32 + 8 * (value // 2) + lane // 4
            token = (tl.program_id(1) * NT + n) * 8 + lane % 4 * 2 + value % 2
            mask = (value < 8) & (row < OUT) & (token < N)
            y = gelu(found[i]) if GELU else found[i]
            y_at = token * OUT + row
            if RESIDUAL:
                y += tl.load(residual_ptr + y_at, mask=mask, other=0.0).to(tl.float32)
            tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=mask)
