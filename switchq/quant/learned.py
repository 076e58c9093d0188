"""Scales that are learned together with what they scale.

A learned scale is s = s0 exp(d), d trained from 0. The exponent makes one learning rate fit all widths, whose scales
differ by orders of magnitude, and keeps s positive: the log domain of TQT (Jain et al. 2019, arXiv:1903.08066), with
straight-through gradients of LSQ (Esser et al. 2020, arXiv:1902.08153) for the rounded weight v(w, s):

    dv/dw = m                   m = 1 where w is within half a step of its level, 0 where it is clipped
    dv/dd = s dv/ds = v - m w   for integer levels (Euler: v is homogeneous, v = w dv/dw + s dv/ds)

(LSQ counts the half step beyond the outermost level as clipped), and with LSQ's step size gradient scale 1 / sqrt(S q),
S weights a group and q = 2^(b-1), so that the scales' share in the joint gradient norm does not grow with the weights.
"""

import math
from typing import Any

import torch
from torch import Tensor

from switchq.quant.grid import Grid, Params, stored_scale


def learned_params(params: Params, log_scale_OG: Tensor) -> Params:
    """The parameters that a learned scale makes of the fitted ones; the scale holds float16 values again."""
    return params | {"scale": stored_scale(params["scale"] * log_scale_OG.exp())}


def learned_fake_quantize(grid: Grid, weight_OI: Tensor, params: Params, log_scale_OG: Tensor, bits: int) -> Tensor:
    """The rounded weight (O, I), in the weight's dtype, differentiable in the weight and in `log_scale_OG`.

    Args:
        grid: where the weight is rounded to.
        weight_OI: the float weight.
        params: as `Grid.fit` gives them.
        log_scale_OG: logarithm of the learned factor of every scale.
        bits: the width of a code.
    """
    rounded: Tensor = _Rounded.apply(weight_OI, log_scale_OG, grid, params, bits)
    return rounded


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_OI: Tensor, log_scale_OG: Tensor, grid: Grid, params: Params, bits: int) -> Tensor:
        now = learned_params(params, log_scale_OG)
        rounded_OI = grid.round(weight_OI, now, bits)
        ctx.save_for_backward(weight_OI, rounded_OI, now["scale"])
        ctx.bits = bits
        return rounded_OI

    @staticmethod
    def backward(ctx: Any, gradient_OI: Tensor) -> tuple[Tensor | None, ...]:
        weight_OI, rounded_OI, scale_OG = ctx.saved_tensors
        shape_OGS = (*scale_OG.shape, -1)
        gradient_OGS, weight_OGS, rounded_OGS = (
            tensor.reshape(shape_OGS) for tensor in (gradient_OI, weight_OI, rounded_OI)
        )
        # Inside the range no weight is further than half a step from its level.
        inside_OGS = (rounded_OGS - weight_OGS).abs() <= scale_OG.unsqueeze(-1) * (0.5 + 1e-4)
        for_weight_OGS = gradient_OGS * inside_OGS
        for_scale_OG = None
        if ctx.needs_input_grad[1]:
            largest = 2 ** (ctx.bits - 1)
            for_scale_OG = (gradient_OGS * rounded_OGS - for_weight_OGS * weight_OGS).sum(-1)
            for_scale_OG /= math.sqrt(weight_OGS.shape[-1] * largest)
        for_weight_OI = for_weight_OGS.reshape(weight_OI.shape) if ctx.needs_input_grad[0] else None
        return for_weight_OI, for_scale_OG, None, None, None
