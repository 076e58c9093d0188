"""OPT."""

from switchq.models.architecture import Architecture

OPT = Architecture(
    model_types=("opt",),
    blocks="model.decoder.layers",
    linears=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"),
)
