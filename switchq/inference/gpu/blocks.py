"""Triton kernels of a decode step beside the products: norm and adapter, and attention over a static cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _low(
    x_ptr, gain_ptr, shift_ptr, y_ptr, low_ptr, u_ptr, IN, R, eps,
    NORM: tl.constexpr, LOW: tl.constexpr, BI: tl.constexpr, BR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y = layer norm of x (N, I), float32; u (N, R) = y low^T. A program has one row of x and BR rows of low."""
    n, block = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, BI)
    in_I = columns < IN
    rows_R = block * BR + tl.arange(0, BR)
    low = tl.zeros((BR, BI), tl.float32)
    gain = tl.zeros((BI,), tl.float32)
    shift = gain
    if LOW:
        low_at = low_ptr + rows_R[:, None] * IN + columns[None, :]
        low = tl.load(low_at, mask=(rows_R < R)[:, None] & in_I[None, :], other=0.0).to(tl.float32)
    if NORM:
        gain = tl.load(gain_ptr + columns, mask=in_I, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + columns, mask=in_I, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    y = tl.load(x_ptr + n * IN + columns, mask=in_I, other=0.0).to(tl.float32)
    if NORM:
        centred = tl.where(in_I, y - tl.sum(y) / IN, 0.0)
        y = centred * tl.rsqrt(tl.sum(centred * centred) / IN + eps) * gain + shift
        rounded = y.to(y_ptr.dtype.element_ty)
        if block == 0:
            tl.store(y_ptr + n * IN + columns, rounded, mask=in_I)
        y = rounded.to(tl.float32)
    if LOW:
        tl.store(u_ptr + n * R + rows_R, tl.sum(low * y[None, :], 1), mask=rows_R < R)


@triton.jit
def _attend(
    qkv_ptr, keys_ptr, values_ptr, position_ptr, start_ptr, out_ptr, capacity, scale,
    HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token's attention. qkv (N, 3 H D); keys and values (N, H, capacity, D) get this token's at `position`."""
    n, head = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, BD)
    in_D = inner < D
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    position = tl.load(position_ptr).to(tl.int32)
    start = tl.load(start_ptr + n).to(tl.int32)
    row = qkv_ptr + n * (3 * HEADS * D) + head * D + inner
    q = tl.load(row, mask=in_D, other=0.0).to(tl.float32) * scale
    new_key = tl.load(row + HEADS * D, mask=in_D, other=0.0)
    new_value = tl.load(row + 2 * HEADS * D, mask=in_D, other=0.0)
    here = (n * HEADS + head).to(tl.int64) * capacity * D
    tl.store(keys_ptr + here + position * D + inner, new_key, mask=in_D)
    tl.store(values_ptr + here + position * D + inner, new_value, mask=in_D)
    most = tl.sum(q * new_key.to(tl.float32))
    total = 1.0
    out = new_value.to(tl.float32)
    for first in range(0, position, BT):
        times = first + tl.arange(0, BT)
        seen = (times < position) & (times >= start)
        mask = seen[:, None] & in_D[None, :]
        at = here + times[:, None] * D + inner[None, :]
        key = tl.load(keys_ptr + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values_ptr + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(key * q[None, :], 1), float("-inf"))
        higher = tl.maximum(most, tl.max(score))
        share = tl.exp(score - higher)
        keep = tl.exp(most - higher)
        out = out * keep + tl.sum(share[:, None] * value, 0)
        total = total * keep + tl.sum(share)
        most = higher
    at = out_ptr + n * (HEADS * D) + head * D + inner
    tl.store(at, (out / total).to(out_ptr.dtype.element_ty), mask=in_D)


def norm_low(
    x_NI: Tensor,
    norm: tuple[Tensor, Tensor, float] | None,
    low_RI: Tensor | None,
    dtype: torch.dtype,
    pdl: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """y (N, I) in `dtype`, the layer norm (gain, shift, eps) of x if there is one, and u (N, R) = y low^T."""
    tokens, inputs = x_NI.shape
    y_NI = torch.empty(tokens, inputs, dtype=dtype, device=x_NI.device) if norm is not None else x_NI
    gain, shift, eps = norm if norm is not None else (x_NI, x_NI, 0.0)
    rank = len(low_RI) if low_RI is not None else 1
    u_NR = torch.empty(tokens, rank, dtype=dtype, device=x_NI.device) if low_RI is not None else None
    if norm is None and low_RI is None:
        return y_NI, None
    rows = 4 if low_RI is not None else 1
    _low[(tokens, triton.cdiv(rank, rows))](
        x_NI, gain, shift, y_NI, low_RI if low_RI is not None else x_NI, u_NR if u_NR is not None else x_NI,
        inputs, rank, eps,
        NORM=norm is not None, LOW=low_RI is not None, BI=triton.next_power_of_2(inputs), BR=rows, PDL=pdl,
        num_warps=4 if inputs <= 1024 else 8, **({"launch_pdl": True} if pdl else {}),
    )  # fmt: skip
    return y_NI, u_NR


def attend(
    qkv_NJ: Tensor,
    keys_NHTD: Tensor,
    values_NHTD: Tensor,
    position: Tensor,
    start_N: Tensor,
    scale: float,
    pdl: bool = False,
) -> Tensor:
    """Attention (N, H D) of one new token a row, which is written to the cache at `position`.

    Args:
        qkv_NJ: queries, keys and values beside each other, (N, 3 H D).
        keys_NHTD: the cache of keys.
        values_NHTD: the cache of values.
        position: where the new token stands, one number on the device.
        start_N: first place of each row that counts: what lies before is padding.
        scale: of the scores.
        pdl: start while the kernel before still runs.
    """
    tokens, heads, capacity, width = keys_NHTD.shape
    out_NI = torch.empty(tokens, heads * width, dtype=qkv_NJ.dtype, device=qkv_NJ.device)
    _attend[(tokens, heads)](
        qkv_NJ, keys_NHTD, values_NHTD, position, start_N, out_NI, capacity, scale,
        HEADS=heads, D=width, BD=triton.next_power_of_2(width), BT=64, PDL=pdl, num_warps=4,
        **({"launch_pdl": True} if pdl else {}),
    )  # fmt: skip
    return out_NI
