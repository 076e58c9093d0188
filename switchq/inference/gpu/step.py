"""One token through a GPT-2 over a static cache of keys and values, for few rows in nine kernels a block.

    norm and adapter's first factor | q, k, v | attention | first factor | output + residual
    norm and first factor | up and GELU | first factor | down + residual

More rows are multiplied by decoded weights. The residual stream is float32. Everything that changes from token to token
lies in buffers that keep their place, so the step can be captured in a CUDA graph.
"""

from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.inference.gpu.kernel import PlanesKernel
from switchq.inference.linear import PackedLinear
from switchq.inference.low_rank import LowRank
from switchq.inference.steps.cache import Cache
from switchq.inference.steps.step import Step


class GraphStep(Step):
    """See `switchq.inference.steps.step`; for models that `is_plain_gpt2` admits.

    Args:
        model: a GPT-2 whose linears are `PackedLinear` on `PlanesKernel`.
        blocks: `switchq.inference.gpu.blocks`.
        products: `switchq.inference.gpu.products`.
        pdl: let kernels begin while those before them still run.
    """

    def __init__(self, model: PreTrainedModel, blocks: ModuleType, products: ModuleType, pdl: bool) -> None:
        super().__init__(model)
        self.blocks, self.products, self.pdl = blocks, products, pdl
        self.body: Any = model.get_submodule("transformer")
        self.scale = float((model.config.n_embd // model.config.n_head) ** -0.5)

    def hidden(self, cache: Cache) -> Tensor:
        """See `Step.hidden`."""
        places_N = cache.position - cache.start_N
        h_NI = (self.body.wte(cache.ids_N) + self.body.wpe(places_N)).float()
        for block, keys, values in zip(self.body.h, cache.keys, cache.values, strict=True):
            h_NI = self._block(block, h_NI, keys, values, cache)
        norm = self.body.ln_f
        y_NI: Tensor = self.blocks.norm_low(h_NI, (norm.weight, norm.bias, norm.eps), None, self.dtype)[0]
        return y_NI

    def _block(self, block: Any, h_NI: Tensor, keys: Tensor, values: Tensor, cache: Cache) -> Tensor:
        attention, mlp = block.attn, block.mlp
        qkv_NJ = self._linear(attention.c_attn, h_NI, block.ln_1)
        seen_NI = self.blocks.attend(qkv_NJ, keys, values, cache.position, cache.start_N, self.scale, self.pdl)
        h_NI = self._linear(attention.c_proj, seen_NI, None, residual_NO=h_NI)
        up_NJ = self._linear(mlp.c_fc, h_NI, block.ln_2, gelu=True)
        return self._linear(mlp.c_proj, up_NJ, None, residual_NO=h_NI)

    def _linear(self, linear: Any, x_NI: Tensor, norm: Any, gelu: bool = False, residual_NO: Any = None) -> Tensor:
        ready = cast(PackedLinear, linear).ready
        kernel = cast(PlanesKernel, ready.kernel)
        normed = None if norm is None else (norm.weight, norm.bias, norm.eps)
        low = cast(LowRank | None, ready.low)
        few = len(x_NI) <= self.products.MOST
        x_NI, u_NR = self.blocks.norm_low(
            x_NI, normed, low.low_RI if few and low is not None else None, self.dtype, self.pdl
        )
        if not few:
            y_NO = kernel.layer(x_NI, linear.bias, low)
            y_NO = F.gelu(y_NO, approximate="tanh") if gelu else y_NO
            return y_NO if residual_NO is None else residual_NO + y_NO
        product: Tensor = self.products.product(
            x_NI,
            kernel.tiled,
            bias_O=linear.bias,
            low=None if low is None else (u_NR, low.high_RO.T),
            gelu=gelu,
            residual_NO=residual_NO,
            out_NO=None if residual_NO is None else torch.empty_like(residual_NO),
            pdl=self.pdl,
        )
        return product
