"""Products of activations with b bit-planes in Triton, see `switchq.inference.gpu.decoding`.

Few rows are multiplied on the spot: one multiply-add of x with `value` a weight, in a sum of its own for each of the T
places that a field is read from. The 1 under the codes and the sign's 2^(b-1) are constant; sums of x take them away:

    sum(u x) = sum over places of  2^(23-s) (sum(value x) - sum(x))         at most 2^8 times the codes' range
    y = sum over groups of  scale x sum(u x)  +  (offset - 2^(b-1) scale) x sum(x)

Sums are float32, so that costs 8 of 24 bits. Then + bias + B u, activation, + residual.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from switchq.inference.gpu.decoding import ONE, code_word, field, load_words, turned, unit, value, weight

__all__ = ["MOST", "Tile", "product", "tile_for", "weight"]


@triton.jit
def _gelu(y):
    """GELU in its tanh form."""
    inner = 1.5957691216057308 * (y + 0.044715 * y * y * y)  # 2 sqrt(2 / pi)
    return y / (1.0 + tl.exp(tl.minimum(-inner, 80.0)))


@triton.jit
def _four(x_ptr, at, mask):
    """Four neighbours from `at` on, float32; those of two bytes come in one load."""
    if x_ptr.dtype.element_ty.primitive_bitwidth == 16:
        together = tl.load((x_ptr + at).to(tl.pointer_type(tl.int64)), mask=mask, other=0)
        low, high = together.to(tl.int32), (together >> 32).to(tl.int32)
        halves = (low.to(tl.int16), (low >> 16).to(tl.int16), high.to(tl.int16), (high >> 16).to(tl.int16))
        dtype: tl.constexpr = x_ptr.dtype.element_ty
        return (
            halves[0].to(dtype, bitcast=True).to(tl.float32),
            halves[1].to(dtype, bitcast=True).to(tl.float32),
            halves[2].to(dtype, bitcast=True).to(tl.float32),
            halves[3].to(dtype, bitcast=True).to(tl.float32),
        )
    else:
        return (
            tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32),
            tl.load(x_ptr + at + 1, mask=mask, other=0.0).to(tl.float32),
            tl.load(x_ptr + at + 2, mask=mask, other=0.0).to(tl.float32),
            tl.load(x_ptr + at + 3, mask=mask, other=0.0).to(tl.float32),
        )


@triton.jit
def _plus(sums, INDEX: tl.constexpr, item):
    """The tuple with `item` added at INDEX."""
    return sums[:INDEX] + (sums[INDEX] + item,) + sums[INDEX + 1 :]


@triton.jit(do_not_specialize=["one", "zero"])
def _product(
    x_ptr, planes, scale_ptr, offset_ptr, bias_ptr, u_ptr, high_ptr, residual_ptr, y_ptr,
    N, OUT, x_stride, RANK, one, zero,
    WORDS: tl.constexpr, S: tl.constexpr, F: tl.constexpr,
    BIAS: tl.constexpr, LOW: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
    BN: tl.constexpr, BO: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y (N, O) = x (N, I) W^T + bias + u (N, R) high (R, O), then GELU, then + residual (N, O)."""
    BITS: tl.constexpr = len(planes)
    T: tl.constexpr = 8 // F
    GROUPED: tl.constexpr = S != WORDS
    rows_O = tl.program_id(0) * BO + tl.arange(0, BO)
    first_N = tl.program_id(1) * BN
    in_O = rows_O < OUT
    empty = tl.zeros((BO, BW), tl.float32)
    empty_x = tl.zeros((1, BW), tl.float32)
    sums = (empty,) * BN
    totals = (empty_x,) * BN
    if PDL:
        gdc_launch_dependents()
    for first in range(0, WORDS, BW):
        words_W = (first + tl.arange(0, BW))[None, :]
        in_W = words_W < WORDS
        mask = in_O[:, None] & in_W
        words = load_words(planes, zero + rows_O[:, None] * WORDS + words_W, mask)
        scale = tl.full((1, 1), 1.0, tl.float32)
        offset = scale
        if GROUPED:
            level = rows_O[:, None] * (WORDS // S) + words_W // S
            scale = tl.load(scale_ptr + level, mask=mask, other=0.0).to(tl.float32)
            offset = tl.load(offset_ptr + level, mask=mask, other=0.0).to(tl.float32)
        if PDL:
            gdc_wait()  # all that came before is weights, which no kernel writes
        column = zero + (words_W // S) * (32 * S) + (words_W % S) * 4
        parts = (empty,) * (BN * T)
        xs = (empty_x,) * (BN * T)
        for r in tl.static_range(F):
            word = code_word(words, r, F)
            x = ()
            for n in tl.static_range(BN):
                for j in tl.static_range(T):
                    at = (first_N + n) * x_stride + column + (r + F * j) * S * 4
                    x = x + (_four(x_ptr, at, in_W & (first_N + n < N)),)  # type: ignore[assignment]
            for h in tl.static_range(4):
                moved = turned(word, r + 8 * h - 22 + 8 - F)
                for j in tl.static_range(T):
                    weights = value(moved, one, j, BITS, F)
                    for n in tl.static_range(BN):
                        xs = _plus(xs, n * T + j, x[n * T + j][h])
                        parts = _plus(parts, n * T + j, weights * x[n * T + j][h])
        for n in tl.static_range(BN):
            part, total = empty, empty_x
            for j in tl.static_range(T):
                part += (parts[n * T + j] - xs[n * T + j]) * unit(j, BITS, F)
                total += xs[n * T + j]
            part -= total * float(1 << (BITS - 1))
            if GROUPED:
                part = part * scale + total * offset
            sums = _plus(sums, n, part)
            totals = _plus(totals, n, total)
    row = tl.zeros((BO,), tl.float32)
    scale, offset, bias = row, row, row
    if not GROUPED:
        scale = tl.load(scale_ptr + rows_O, mask=in_O, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr + rows_O, mask=in_O, other=0.0).to(tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + rows_O, mask=in_O, other=0.0).to(tl.float32)
    rows_R = tl.arange(0, BR)
    in_R = rows_R < RANK
    high = tl.zeros((BO, BR), tl.float32)
    if LOW:
        high_at = high_ptr + rows_O[:, None] * RANK + rows_R[None, :]
        high = tl.load(high_at, mask=in_O[:, None] & in_R[None, :], other=0.0).to(tl.float32)
    for n in tl.static_range(BN):
        row_N = first_N + n
        y = tl.sum(sums[n], 1)
        if not GROUPED:
            y = y * scale + tl.sum(totals[n]) * offset
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
        x_NI, tuple(planes), scale_OG, offset_OG, bias_O if bias_O is not None else x_NI, u, high,
        residual_NO if residual_NO is not None else x_NI, out_NO,
        tokens, outputs, x_NI.stride(0), u.shape[1], ONE, 0,
    )  # fmt: skip
    options = {
        "WORDS": words, "S": stride, "F": field(bits), "BIAS": bias_O is not None, "LOW": low is not None,
        "GELU": gelu, "RESIDUAL": residual_NO is not None,
        "BR": triton.next_power_of_2(u.shape[1]) if low is not None else 1,
    }  # fmt: skip
    tile = tile or tile_for(outputs, words, bits, tokens)
    block_N = min(4, triton.next_power_of_2(tokens))
    _product[(triton.cdiv(outputs, tile.rows), triton.cdiv(tokens, block_N))](
        *arguments, **options, BN=block_N, BO=tile.rows, BW=tile.words, PDL=pdl,
        num_warps=tile.warps, **({"launch_pdl": True} if pdl else {}),
    )  # fmt: skip
    return out_NO


MOST = 4
"""Most rows of activations for which this is faster than decoding the weight and float16's product."""
