"""The forward of a quantised layer with its adapters; peft builds, saves and loads them.

One or two adapters run at a time, the shared one and that of the width (or, with adapters off, what was taken out of
the weight, if something was). Side by side their factors are one pair,

    y = W x + s [B_1 B_2] [A_1; A_2] x

so that both cost the products of one, forward and backward, and what is added to the base product is added by the
matrix multiplication itself. Small models spend more time on starting kernels than in them: a block's forward and
backward take a third fewer this way than with one adapter after the other through autograd.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class SwitchedLora(Linear):
    """y = base(x) + the sum over active adapters of (alpha / r) B A dropout(x), A (R, I) and B (O, R)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., I) -> (..., O), in the dtype that the base gives."""
        autocast = torch.is_autocast_enabled(x.device.type)
        if autocast:  # once, for the base and the adapters
            x = x.to(torch.get_autocast_dtype(x.device.type))
        base = self.base_layer(x)
        if not self._active_adapter or self.disable_adapters or self.merged:
            return base
        names = self._active_adapter
        factors = [cast(Tensor, part[name].weight) for part in (self.lora_A, self.lora_B) for name in names]
        dtype = x.dtype if autocast else factors[0].dtype
        scales = [self.scaling[name] for name in names]
        base_NO, x_NI = base.flatten(0, -2).to(dtype), x.flatten(0, -2)
        drops = not all(isinstance(self.lora_dropout[name], nn.Identity) for name in names)
        if not drops and not torch.compiler.is_compiling():
            sum_NO = _AddLowRank.apply(base_NO, x_NI, scales, *factors)
        else:  # each adapter drops other inputs; and a compiler finds its own way
            sum_NO = base_NO
            for index, name in enumerate(names):
                dropped_NI = self.lora_dropout[name](x_NI).to(dtype)
                low_NR = F.linear(dropped_NI, factors[index])
                sum_NO = torch.addmm(sum_NO, low_NR, factors[len(names) + index].T.to(dtype), alpha=scales[index])
        return sum_NO.to(base.dtype).view(base.shape)


class _AddLowRank(torch.autograd.Function):
    """base + sum over pairs of s B A x, in the dtype of `base`."""

    @staticmethod
    def forward(ctx: Any, base_NO: Tensor, x_NI: Tensor, scales: Sequence[float], *factors: Tensor) -> Tensor:
        """Factors are all A (R, I), then all B (O, R); each pair has its own R and its own scale."""
        downs, ups = factors[: len(scales)], factors[len(scales) :]
        dtype = base_NO.dtype
        x_NI = x_NI.to(dtype)
        ctx.ranks = [len(down_RI) for down_RI in downs]
        ctx.shares = [scale / scales[0] for scale in scales]
        ctx.scale = scales[0]
        ctx.dtypes = [factor.dtype for factor in factors]
        a_RI = x_NI.new_empty(sum(ctx.ranks), x_NI.shape[1])
        b_OR = x_NI.new_empty(base_NO.shape[1], len(a_RI))
        for down_RI, up_OR, a_view, b_view, share in zip(
            downs, ups, a_RI.split(ctx.ranks), b_OR.split(ctx.ranks, 1), ctx.shares
        ):
            a_view.copy_(down_RI)
            b_view.copy_(up_OR if share == 1 else up_OR * share)
        low_NR = F.linear(x_NI, a_RI)
        ctx.save_for_backward(x_NI, low_NR, a_RI, b_OR)
        return torch.addmm(base_NO, low_NR, b_OR.T, alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Any, ...]:
        x_NI, low_NR, a_RI, b_OR = ctx.saved_tensors
        gradients: list[Tensor | None] = [None] * len(ctx.dtypes)
        pairs = len(ctx.ranks)
        lower_NR = _scaled_product(gradient_NO, b_OR, ctx.scale)
        if any(ctx.needs_input_grad[3 : 3 + pairs]):
            for index, part_RI in enumerate((lower_NR.T @ x_NI).split(ctx.ranks)):
                gradients[index] = part_RI.to(ctx.dtypes[index])
        if any(ctx.needs_input_grad[3 + pairs :]):
            for index, part_OR in enumerate(_scaled_product(gradient_NO.T, low_NR, ctx.scale).split(ctx.ranks, 1)):
                dtype, share = ctx.dtypes[pairs + index], ctx.shares[index]
                whole_OR = part_OR.to(dtype, memory_format=torch.contiguous_format, copy=True)
                gradients[pairs + index] = whole_OR if share == 1 else whole_OR * share
        for_x_NI = lower_NR @ a_RI if ctx.needs_input_grad[1] else None
        return gradient_NO, for_x_NI, None, *gradients


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale x left @ right in one kernel; with beta 0 the first argument is not read."""
    return torch.addmm(right.new_empty(()), left, right, beta=0, alpha=scale)
