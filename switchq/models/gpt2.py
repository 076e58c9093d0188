"""GPT-2: its linears are Conv1D modules, whose weight is (in, out)."""

from transformers import PreTrainedConfig

from switchq.models.architecture import ROLES, Architecture, Input, Stream


def _inputs(config: PreTrainedConfig) -> tuple[Input, ...]:
    return (
        Input(("attn.c_attn",), norm="ln_1", role=ROLES[0]),
        Input(("attn.c_proj",), linear="attn.c_attn", first_row=2 * config.hidden_size, role=ROLES[1]),
        Input(("mlp.c_fc",), norm="ln_2", role=ROLES[2]),
        Input(("mlp.c_proj",), role=ROLES[3], through="mlp.c_fc"),  # GELU
    )


def _stream(config: PreTrainedConfig) -> Stream:
    return Stream(
        tables=("transformer.wte", "transformer.wpe"),
        writers=(),
        block_writers=("attn.c_proj", "mlp.c_proj"),
        norm="transformer.ln_f",
        reader="lm_head",
    )


GPT2 = Architecture(
    model_types=("gpt2",),
    blocks="transformer.h",
    linears=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    inputs=_inputs,
    stream=_stream,
    transposed=True,
)
