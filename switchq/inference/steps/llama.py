"""The step of Llama and the models built like it, in PyTorch's operators."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.inference.steps.attention import Attention
from switchq.inference.steps.cache import Cache
from switchq.inference.steps.step import Step

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def is_plain_llama(model: PreTrainedModel) -> bool:
    """Whether a step of Llama computes what `model` does: no window of attention that is shorter than the model's."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    return (
        config.model_type in MODEL_TYPES
        and config.hidden_act == "silu"
        and (window is None or window >= config.max_position_embeddings)
    )


class LlamaStep(Step):
    """See `switchq.inference.steps.step`; for models that `is_plain_llama` admits."""

    def hidden(self, cache: Cache) -> Tensor:
        """See `Step.hidden`."""
        body, attend = self.model.model, Attention(cache)
        h_NI = body.embed_tokens(cache.ids_N)
        places_N1 = (cache.position - cache.start_N).unsqueeze(-1)
        turn = Rotation(*body.rotary_emb(h_NI, places_N1))
        for number, block in enumerate(body.layers):
            x_NI = _norm(block.input_layernorm, h_NI)
            h_NI = h_NI + block.self_attn.o_proj.multiply(attend(number, *_heads(block.self_attn, x_NI, turn)))
            x_NI = _norm(block.post_attention_layernorm, h_NI)
            gate_NJ = F.silu(block.mlp.gate_proj.multiply(x_NI))
            h_NI = h_NI + block.mlp.down_proj.multiply(gate_NJ.mul_(block.mlp.up_proj.multiply(x_NI)))
        return _norm(body.norm, h_NI)


class Rotation:
    """Rotary position embedding of one token a row: x cos + (-x2, x1) sin, with x1 and x2 the halves of x.

    Args:
        cos: (N, 1, D).
        sin: (N, 1, D).
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.half = sin.shape[-1] // 2
        self.cos, self.sin = cos, torch.cat([-sin[..., : self.half], sin[..., self.half :]], -1)

    def __call__(self, x_NHD: Tensor) -> Tensor:
        """x, turned."""
        return torch.addcmul(x_NHD * self.cos, x_NHD.roll(self.half, -1), self.sin)


def _heads(attention: Any, x_NI: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (N, H, D); Qwen3 has norms for the first two."""
    q_NHD, k_NHD, v_NHD = (
        linear.multiply(x_NI).view(len(x_NI), -1, attention.head_dim)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):
        q_NHD, k_NHD = _norm(attention.q_norm, q_NHD), _norm(attention.k_norm, k_NHD)
    return turn(q_NHD), turn(k_NHD), v_NHD


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
