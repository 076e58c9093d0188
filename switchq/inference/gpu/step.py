"""One token through a GPT-2 over a static cache of keys and values, for few rows in nine kernels a block.

    norm and adapter's first factor | q, k, v | attention | first factor | output + residual
    norm and first factor | up and GELU | first factor | down + residual

More rows are multiplied by decoded weights. The residual stream is float32. Everything that changes from token to token
lies in buffers that keep their place, so the step can be captured in a CUDA graph.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, PreTrainedModel

from switchq.inference.gpu.kernel import PlanesKernel
from switchq.inference.linear import PackedLinear


@dataclass(frozen=True)
class Cache:
    """What a step reads and writes.

    Attributes:
        keys: of each block, (N, H, T, D).
        values: of each block, (N, H, T, D).
        ids_N: the tokens to go in, then those that came out.
        position: where they stand, one number.
        start_N: first place of each row that counts.
        logits_NV: of the last step, float32.
        said_NT: tokens by the place where they stand.
    """

    keys: list[Tensor]
    values: list[Tensor]
    ids_N: Tensor
    position: Tensor
    start_N: Tensor
    logits_NV: Tensor
    said_NT: Tensor

    @classmethod
    def empty(cls, config: GPT2Config, rows: int, capacity: int, device: torch.device, dtype: torch.dtype) -> "Cache":
        """Room for `capacity` tokens in each of `rows` rows."""
        shape = (rows, config.n_head, capacity, config.n_embd // config.n_head)
        blocks = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * config.n_layer)]
        return cls(
            blocks[::2],
            blocks[1::2],
            ids_N=torch.zeros(rows, dtype=torch.long, device=device),
            position=torch.zeros(1, dtype=torch.long, device=device),
            start_N=torch.zeros(rows, dtype=torch.long, device=device),
            logits_NV=torch.zeros(rows, config.vocab_size, dtype=torch.float32, device=device),
            said_NT=torch.zeros(rows, capacity, dtype=torch.long, device=device),
        )

    def fill(self, prefilled: Any, mask_NT: Tensor) -> None:
        """Take over the keys and values of a prompt, padded on the left."""
        length = mask_NT.shape[1]
        for block, layer in enumerate(prefilled.layers):
            self.keys[block][:, :, :length] = layer.keys
            self.values[block][:, :, :length] = layer.values
        self.position.fill_(length)
        self.start_N.copy_(length - mask_NT.sum(-1))


def runs(model: PreTrainedModel) -> bool:
    """Whether the step computes what `model` does."""
    config = model.config
    return (
        isinstance(config, GPT2Config)
        and config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and not config.add_cross_attention
    )


class Step:
    """The step of a model at the bitmap that it has when called.

    Args:
        model: a GPT-2 whose linears are `PackedLinear` on `PlanesKernel`.
        blocks: `switchq.inference.gpu.blocks`.
        products: `switchq.inference.gpu.products`.
        pdl: let kernels begin while those before them still run.
    """

    def __init__(self, model: PreTrainedModel, blocks: ModuleType, products: ModuleType, pdl: bool) -> None:
        self.model, self.blocks, self.products, self.pdl = model, blocks, products, pdl
        self.body: Any = model.get_submodule("transformer")
        self.scale = float((model.config.n_embd // model.config.n_head) ** -0.5)
        self.dtype: torch.dtype = model.dtype

    def __call__(self, cache: Cache) -> None:
        """Read the tokens of the cache, write logits and the likeliest next tokens, and go on one place."""
        places_N = cache.position - cache.start_N
        h_NI = (self.body.wte(cache.ids_N) + self.body.wpe(places_N)).float()
        for block, keys, values in zip(self.body.h, cache.keys, cache.values, strict=True):
            h_NI = self._block(block, h_NI, keys, values, cache)
        norm = self.body.ln_f
        y_NI, _ = self.blocks.norm_low(h_NI, (norm.weight, norm.bias, norm.eps), None, self.dtype)
        logits_NV = self.model.lm_head(y_NI)
        cache.logits_NV.copy_(logits_NV)
        cache.ids_N.copy_(logits_NV.argmax(-1))
        cache.position.add_(1)
        cache.said_NT.index_copy_(1, cache.position, cache.ids_N.unsqueeze(-1))

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
        few = len(x_NI) <= self.products.MOST
        x_NI, u_NR = self.blocks.norm_low(x_NI, normed, ready.low_RI if few else None, self.dtype, self.pdl)
        if not few:
            y_NO = kernel.layer(x_NI, linear.bias, ready.low_RI, ready.high_RO)
            y_NO = F.gelu(y_NO, approximate="tanh") if gelu else y_NO
            return y_NO if residual_NO is None else residual_NO + y_NO
        product: Tensor = self.products.product(
            x_NI,
            kernel.planes,
            kernel.scale_OG,
            kernel.offset_OG,
            kernel.stride,
            bias_O=linear.bias,
            low=None if u_NR is None else (u_NR, ready.high_RO.T),  # type: ignore[union-attr]
            gelu=gelu,
            residual_NO=residual_NO,
            out_NO=None if residual_NO is None else torch.empty_like(residual_NO),
            pdl=self.pdl,
        )
        return product
