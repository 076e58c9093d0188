"""GPT-2's step in PyTorch's operators."""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, PreTrainedModel

from switchq.inference.steps.attention import Attention
from switchq.inference.steps.cache import Cache
from switchq.inference.steps.step import Step


def is_plain_gpt2(model: PreTrainedModel) -> bool:
    """Whether a step of GPT-2 computes what `model` does."""
    config = model.config
    return (
        isinstance(config, GPT2Config)
        and config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and not config.add_cross_attention
    )


class GPT2Step(Step):
    """See `switchq.inference.steps.step`; for models that `is_plain_gpt2` admits."""

    def hidden(self, cache: Cache) -> Tensor:
        """See `Step.hidden`."""
        body, attend = self.model.transformer, Attention(cache)
        heads = self.model.config.n_head
        h_NI = body.wte(cache.ids_N) + body.wpe(cache.position - cache.start_N)
        for number, block in enumerate(body.h):
            qkv_NJ = block.attn.c_attn.multiply(_norm(block.ln_1, h_NI))
            qkv_N3HD = qkv_NJ.view(len(h_NI), 3, heads, -1)
            h_NI = h_NI + block.attn.c_proj.multiply(attend(number, *qkv_N3HD.unbind(1)))
            up_NJ = block.mlp.c_fc.multiply(_norm(block.ln_2, h_NI))
            h_NI = h_NI + block.mlp.c_proj.multiply(F.gelu(up_NJ, approximate="tanh"))
        return _norm(body.ln_f, h_NI)


def _norm(norm: nn.LayerNorm, x_NI: Tensor) -> Tensor:
    return F.layer_norm(x_NI, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
