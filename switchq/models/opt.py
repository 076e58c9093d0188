"""OPT."""

from transformers import PreTrainedConfig

from switchq.models.architecture import ROLES, Architecture, Input, Stream


def _inputs(config: PreTrainedConfig) -> tuple[Input, ...]:
    before = config.do_layer_norm_before  # a norm that comes after, as in OPT-350m, feeds the residual stream too
    relu = config.activation_function == "relu"
    return (
        Input(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            norm="self_attn_layer_norm" if before else None,
            role=ROLES[0],
        ),
        Input(("self_attn.out_proj",), linear="self_attn.v_proj", role=ROLES[1]),
        Input(("fc1",), norm="final_layer_norm" if before else None, role=ROLES[2]),
        Input(("fc2",), linear="fc1" if relu else None, role=ROLES[3], through=None if relu else "fc1"),
    )


def _stream(config: PreTrainedConfig) -> Stream | None:
    if not config.do_layer_norm_before or config._remove_final_layer_norm:
        return None
    positions = "model.decoder.embed_positions"
    projected = config.word_embed_proj_dim != config.hidden_size
    return Stream(
        tables=(positions,) if projected else ("model.decoder.embed_tokens", positions),
        writers=("model.decoder.project_in",) if projected else (),
        block_writers=("self_attn.out_proj", "fc2"),
        norm="model.decoder.final_layer_norm",
        reader="model.decoder.project_out" if projected else "lm_head",
    )


OPT = Architecture(
    model_types=("opt",),
    blocks="model.decoder.layers",
    linears=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"),
    inputs=_inputs,
    stream=_stream,
)
