"""Llama and the models built like it."""

from transformers import PreTrainedConfig

from switchq.models.architecture import ROLES, Architecture, Input, Stream


def _inputs(config: PreTrainedConfig) -> tuple[Input, ...]:
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return (
        Input(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), norm="input_layernorm", role=ROLES[0]),
        Input(
            ("self_attn.o_proj",),
            linear="self_attn.v_proj",
            repeats=heads // (config.num_key_value_heads or heads),
            head_size=head_size,
            role=ROLES[1],
        ),
        Input(("mlp.gate_proj", "mlp.up_proj"), norm="post_attention_layernorm", role=ROLES[2]),
        Input(("mlp.down_proj",), linear="mlp.up_proj", role=ROLES[3]),
    )


def _stream(config: PreTrainedConfig) -> Stream:
    return Stream(
        tables=("model.embed_tokens",),
        writers=(),
        block_writers=("self_attn.o_proj", "mlp.down_proj"),
        norm="model.norm",
        reader="lm_head",
    )


LLAMA = Architecture(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    blocks="model.layers",
    linears=(
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ),
    inputs=_inputs,
    stream=_stream,
)
