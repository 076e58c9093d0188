"""GPT-2: its linears are Conv1D modules, whose weight is (in, out)."""

from switchq.models.architecture import Architecture

GPT2 = Architecture(
    model_types=("gpt2",),
    blocks="transformer.h",
    linears=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    transposed=True,
)
