"""OPT."""

from transformers import PreTrainedConfig

from switchq.models.architecture import Architecture, Input


def _inputs(config: PreTrainedConfig) -> tuple[Input, ...]:
    before = config.do_layer_norm_before  # a norm that comes after, as in OPT-350m, feeds the residual stream too
    relu = config.activation_function == "relu"
    return (
        Input(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            norm="self_attn_layer_norm" if before else None,
        ),
        Input(("self_attn.out_proj",), linear="self_attn.v_proj"),
        Input(("fc1",), norm="final_layer_norm" if before else None),
        Input(("fc2",), linear="fc1" if relu else None),
    )


OPT = Architecture(
    model_types=("opt",),
    blocks="model.decoder.layers",
    linears=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"),
    inputs=_inputs,
)
