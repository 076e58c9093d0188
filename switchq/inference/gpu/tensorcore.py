"""Multiplications of the tensor cores from and to registers: 16 x 16 by 16 x 8 halves, 16 x 32 by 32 x 8 bytes.

Every thread of a warp holds what PTX's `mma.m16n8k16` says. Thread 4 g + t has

    a (rows, k)       four words: rows g, g + 8, g, g + 8 at k = 2 t, the last two at k + 8; two neighbours in k each
    b (k, columns)    two words: column g at k = 2 t and k + 8
    c (rows, columns) four sums: row g at columns 2 t and 2 t + 1, and row g + 8

As all k are summed, which columns of a matrix are called k = 2 t, 2 t + 1, 2 t + 8, 2 t + 9 is free, if a and b agree.
For bytes it is the same with four neighbours in a word, from k = 4 t on, and k + 16 in the other words.

Triton's own `dot` would move a through shared memory, where the decoded weights would cost more than their planes.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels run in Triton's interpreter, which knows no inline assembly."""


@triton.jit
def multiply(a, b, c, dtype: tl.constexpr):
    """c + a b, four sums a thread. Tensors have an element for each thread; dtype is float16 or bfloat16."""
    if INTERPRETED:
        return _emulated(a, b, c, dtype)
    elif dtype == tl.bfloat16:
        return _instruction(a, b, c, "bf16")
    else:
        return _instruction(a, b, c, "f16")


@triton.jit
def _instruction(a, b, c, NAME: tl.constexpr):
    return tl.inline_asm_elementwise(
        "mma.sync.aligned.m16n8k16.row.col.f32." + NAME + "." + NAME + ".f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
        "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
        [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]],
        dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _emulated(a, b, c, dtype: tl.constexpr):
    """The same without tensor cores."""
    top = _rows_by_columns(a[0], b[0], dtype) + _rows_by_columns(a[2], b[1], dtype)
    low = _rows_by_columns(a[1], b[0], dtype) + _rows_by_columns(a[3], b[1], dtype)
    return _added(c, top, low)


@triton.jit
def _added(c, top, low):
    """c + sums (warps, 8 rows, 8 columns), of rows g and of rows g + 8."""
    top_0, top_1 = tl.split(tl.reshape(top, (top.numel // 2, 2)))
    low_0, low_1 = tl.split(tl.reshape(low, (low.numel // 2, 2)))
    return c[0] + top_0, c[1] + top_1, c[2] + low_0, c[3] + low_1


@triton.jit
def _rows_by_columns(a, b, dtype: tl.constexpr):
    """Of each warp, rows g by columns g': the sum over a row's four threads and the two halves of their words."""
    warps: tl.constexpr = a.numel // 32
    sums = tl.zeros((warps, 8, 8), tl.float32)
    for k in tl.static_range(2):
        left = tl.reshape(half(a, k, dtype), (warps, 8, 1, 4))
        right = tl.reshape(half(b, k, dtype), (warps, 1, 8, 4))
        sums += tl.sum(left * right, 3)
    return sums


@triton.jit
def half(word, HALF: tl.constexpr, dtype: tl.constexpr):
    """The lower (0) or upper half of each word, a number of type `dtype`, as float32."""
    return (word >> (16 * HALF)).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def multiply_bytes(a, b, c):
    """c + a b, four sums a thread, int32; a has bytes from 0 to 255, b from -128 to 127."""
    if INTERPRETED:
        top = _bytes_by_columns(a[0], b[0]) + _bytes_by_columns(a[2], b[1])
        low = _bytes_by_columns(a[1], b[0]) + _bytes_by_columns(a[3], b[1])
        return _added(c, top, low)
    else:
        return tl.inline_asm_elementwise(
            "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
            "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
            "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r",
            [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip


@triton.jit
def _bytes_by_columns(a, b):
    """As `_rows_by_columns`, over the four bytes of words."""
    warps: tl.constexpr = a.numel // 32
    sums = tl.zeros((warps, 8, 8), tl.int32)
    for k in tl.static_range(4):
        left = tl.reshape((a >> (8 * k)) & 0xFF, (warps, 8, 1, 4))
        right = tl.reshape((b >> (8 * k)).to(tl.int8).to(tl.int32), (warps, 1, 8, 4))
        sums += tl.sum(left * right, 3)
    return sums
