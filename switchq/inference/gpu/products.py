"""Products of activations with b bit-planes in Triton, see `switchq.inference.gpu.decoding`.

Few rows are multiplied on the spot: x 2^-s with `value` is one multiply-add a weight. What `start` adds is the same for
all outputs and is taken away once; it is at most 2^8 times the codes' range, and sums are float32, so that costs 8 of
24 bits. A group's or a row's scale and offset come last:

    y = sum over groups of  scale x sum(code x)  +  offset x sum(x)          then + bias + B u, activation, + residual
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from switchq.inference.gpu.decoding import MAGIC, code_word, decode, eight, field, load_words, weight

__all__ = ["MOST", "Tile", "product", "tile_for", "weight"]


@triton.jit
def _gelu(y):
    """GELU in its tanh form."""
    inner = 1.5957691216057308 * (y + 0.044715 * y * y * y)  # 2 sqrt(2 / pi)
    return y / (1.0 + tl.exp(tl.minimum(-inner, 80.0)))


@triton.jit
def _add(sums, totals, part, total, scale, offset, GROUPED: tl.constexpr):
    """What a tile gave, added: at once with its groups' levels, or to be scaled at the end."""
    if GROUPED:
        return sums + (part * scale + total * offset), totals
    else:
        return sums + part, totals + total


@triton.jit(do_not_specialize=["word_stride", "magic", "zero"])
def _product(
    x_ptr, p0, p1, p2, p3, p4, p5, p6, p7, scale_ptr, offset_ptr, bias_ptr, u_ptr, high_ptr, residual_ptr, y_ptr,
    N, OUT, x_stride, word_stride, RANK, magic, zero,
    WORDS: tl.constexpr, S: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr, GROUPED: tl.constexpr,
    BIAS: tl.constexpr, LOW: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
    BN: tl.constexpr, BO: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y (N, O) = x (N, I) W^T + bias + u (N, R) high (R, O), then GELU, then + residual (N, O)."""
    rows_O = tl.program_id(0) * BO + tl.arange(0, BO)
    first_N = tl.program_id(1) * BN
    in_O = rows_O < OUT
    sums0 = tl.zeros((BO, BW), tl.float32)
    totals0 = tl.zeros((1, BW), tl.float32)
    sums1, sums2, sums3 = sums0, sums0, sums0
    totals1, totals2, totals3 = totals0, totals0, totals0
    if PDL:
        gdc_launch_dependents()
    for first in range(0, WORDS, BW):
        words_W = (first + tl.arange(0, BW))[None, :]
        in_W = words_W < WORDS
        mask = in_O[:, None] & in_W
        at = rows_O[:, None] * word_stride + words_W
        w0, w1, w2, w3, w4, w5, w6, w7 = load_words(p0, p1, p2, p3, p4, p5, p6, p7, at, mask, BITS)
        scale = tl.full((1, 1), 1.0, tl.float32)
        offset = scale
        if GROUPED:
            level = rows_O[:, None] * (WORDS // S) + words_W // S
            scale = tl.load(scale_ptr + level, mask=mask, other=0.0).to(tl.float32)
            offset = tl.load(offset_ptr + level, mask=mask, other=0.0).to(tl.float32)
        if PDL:
            gdc_wait()  # all that came before is weights, which no kernel writes
        x_at = x_ptr + zero + first_N * x_stride + (words_W // S) * (32 * S) + words_W % S
        part0 = tl.zeros((BO, BW), tl.float32)
        total0 = tl.zeros((1, BW), tl.float32)
        part1, part2, part3 = part0, part0, part0
        total1, total2, total3 = total0, total0, total0
        start0, start1, start2, start3 = total0, total0, total0, total0
        for r in tl.static_range(F):
            word = code_word(w0, w1, w2, w3, w4, w5, w6, w7, r, BITS, F)
            for i in tl.static_range(32 // F):
                value, unit, start = decode(word, magic, i, BITS, F)
                column = x_at + (i * F + r) * S
                x = tl.load(column, mask=in_W, other=0.0).to(tl.float32)
                total0 += x
                start0 += x * start
                part0 += value * (x * unit)
                if BN > 1:
                    x = tl.load(column + x_stride, mask=in_W & (first_N + 1 < N), other=0.0).to(tl.float32)
                    total1 += x
                    start1 += x * start
                    part1 += value * (x * unit)
                if BN > 2:
                    x = tl.load(column + 2 * x_stride, mask=in_W & (first_N + 2 < N), other=0.0).to(tl.float32)
                    total2 += x
                    start2 += x * start
                    part2 += value * (x * unit)
                    x = tl.load(column + 3 * x_stride, mask=in_W & (first_N + 3 < N), other=0.0).to(tl.float32)
                    total3 += x
                    start3 += x * start
                    part3 += value * (x * unit)
        sums0, totals0 = _add(sums0, totals0, part0 - start0, total0, scale, offset, GROUPED)
        if BN > 1:
            sums1, totals1 = _add(sums1, totals1, part1 - start1, total1, scale, offset, GROUPED)
        if BN > 2:
            sums2, totals2 = _add(sums2, totals2, part2 - start2, total2, scale, offset, GROUPED)
            sums3, totals3 = _add(sums3, totals3, part3 - start3, total3, scale, offset, GROUPED)
    row = tl.zeros((BO,), tl.float32)
    scale, offset = row, row
    if not GROUPED:
        scale = tl.load(scale_ptr + rows_O, mask=in_O, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr + rows_O, mask=in_O, other=0.0).to(tl.float32)
    bias = row
    if BIAS:
        bias = tl.load(bias_ptr + rows_O, mask=in_O, other=0.0).to(tl.float32)
    rows_R = tl.arange(0, BR)
    in_R = rows_R < RANK
    high = tl.zeros((BO, BR), tl.float32)
    if LOW:
        high_at = high_ptr + rows_O[:, None] * RANK + rows_R[None, :]
        high = tl.load(high_at, mask=in_O[:, None] & in_R[None, :], other=0.0).to(tl.float32)
    for n in tl.static_range(BN):
        sums = sums0 if n == 0 else (sums1 if n == 1 else (sums2 if n == 2 else sums3))
        totals = totals0 if n == 0 else (totals1 if n == 1 else (totals2 if n == 2 else totals3))
        row_N = first_N + n
        y = tl.sum(sums, 1)
        if not GROUPED:
            y = y * scale + tl.sum(totals) * offset
        y += bias
        if LOW:
            u = tl.load(u_ptr + row_N * RANK + rows_R, mask=in_R & (row_N < N), other=0.0).to(tl.float32)
            y += tl.sum(high * u[None, :], 1)
        if GELU:
            y = _gelu(y)
        y_at = row_N * OUT + rows_O
        y_mask = in_O & (row_N < N)
        if RESIDUAL:
            y += tl.load(residual_ptr + y_at, mask=y_mask, other=0.0).to(tl.float32)
        tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=y_mask)


class Tile(NamedTuple):
    """How a product is cut up: output rows and words of a program, and its warps."""

    rows: int
    words: int
    warps: int


def tile_for(outputs: int, words: int, bits: int, tokens: int) -> Tile:
    """The tile for a weight of `outputs` rows of `words` words: whole rows, and few enough for all processors.

    At 2 bits a thread has so little to read that half as many rows a thread are faster (on an H100, 4,096 x 4,096, one
    token: 5.7 us against 6.8; at 4 bits 6.6 against 6.1).
    """
    wide = min(triton.next_power_of_2(words), 256)
    warps = max(1, wide // 32)
    rows = 4
    while rows < 16 and outputs // (2 * rows) * warps >= PROGRAM_WARPS and tokens == 1:
        rows *= 2
    return Tile(rows, wide, warps * 2 if bits == 2 and rows > 4 else warps)


PROGRAM_WARPS = 132 * 8
"""Warps that there should be in all, before a program takes more rows."""


def product(
    x_NI: Tensor,
    planes: Sequence[Tensor],
    scale_OG: Tensor,
    offset_OG: Tensor,
    stride: int,
    *,
    bias_O: Tensor | None = None,
    low: tuple[Tensor, Tensor] | None = None,
    gelu: bool = False,
    residual_NO: Tensor | None = None,
    out_NO: Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> Tensor:
    """x W^T + bias + u high^T, then GELU, then + residual, for few rows of x.

    Args:
        x_NI: activations, float16 or bfloat16, rows contiguous.
        planes: words (O, I / 32) of each plane, see `switchq.inference.gpu.words`.
        scale_OG: float16 scales.
        offset_OG: float16 offsets.
        stride: S of the words.
        bias_O: a bias.
        low: u (N, R) float32 and high (O, R), of the adapter.
        gelu: GELU's tanh form on the result.
        residual_NO: added at the end.
        out_NO: where to write; as x by default.
        tile: how to cut it up; by default what `tile_for` says.
        pdl: begin to read weights while the kernel before still runs.
    """
    tokens, inputs = x_NI.shape
    outputs = len(scale_OG)
    words, bits = inputs // 32, len(planes)
    if out_NO is None:
        out_NO = torch.empty(tokens, outputs, dtype=x_NI.dtype, device=x_NI.device)
    u, high = low if low is not None else (x_NI, x_NI)
    arguments = (
        x_NI, *eight(planes), scale_OG, offset_OG, bias_O if bias_O is not None else x_NI, u, high,
        residual_NO if residual_NO is not None else x_NI, out_NO,
        tokens, outputs, x_NI.stride(0), words, u.shape[1], MAGIC, 0,
    )  # fmt: skip
    options = {
        "WORDS": words, "S": stride, "BITS": bits, "F": field(bits), "BIAS": bias_O is not None,
        "LOW": low is not None, "GELU": gelu, "RESIDUAL": residual_NO is not None,
        "BR": triton.next_power_of_2(u.shape[1]) if low is not None else 1,
    }  # fmt: skip
    tile = tile or tile_for(outputs, words, bits, tokens)
    block_N = min(4, triton.next_power_of_2(tokens))
    _product[(triton.cdiv(outputs, tile.rows), triton.cdiv(tokens, block_N))](
        *arguments, **options, GROUPED=stride != words, BN=block_N, BO=tile.rows, BW=tile.words, PDL=pdl,
        num_warps=tile.warps, **({"launch_pdl": True} if pdl else {}),
    )  # fmt: skip
    return out_NO


MOST = 4
"""Most rows of activations for which this is faster than decoding the weight and float16's product."""
