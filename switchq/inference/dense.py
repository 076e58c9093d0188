"""One bitmap of a switchable model as a plain float32 model of `transformers`.

    weight = rounded weight + scaling x B A

The sum is a float weight: it saves no memory, and rounding it again would lose what the adapter gives.
"""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from switchq.bitmap import Bitmap
from switchq.models import architecture_of
from switchq.nn import at, switch_layers
from switchq.nn.merged import merged_weight


@torch.no_grad()
def plain_model(model: PreTrainedModel, bitmap: Bitmap, merge: bool = True) -> PreTrainedModel:
    """`model` at `bitmap` as a `transformers` model with float32 weights and no module of ours."""
    with no_init_weights():
        plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.tie_weights()
    running: dict[str, Tensor] = {}
    transposed = architecture_of(model.config).transposed
    names = set(architecture_of(model.config).linear_names(model))
    with at(model, bitmap):
        for layer in switch_layers(model):
            weight_OI = merged_weight(layer) if merge else layer.linear.effective_weight()
            turned = transposed and layer.name in names
            running[f"{layer.name}.weight"] = weight_OI.T if turned else weight_OI
    kept = {name.replace(".base_layer.", "."): value for name, value in model.named_parameters()}
    called: dict[Tensor, list[str]] = {}
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        called.setdefault(parameter, []).append(name)
    for parameter, names_of in called.items():  # a tied head and embeddings are one, of which a bitmap names the head
        value = next(weights[name] for weights in (running, kept) for name in names_of if name in weights)
        parameter.data = value.detach().to(torch.float32).clone(memory_format=torch.contiguous_format)
    if model.generation_config is not None:
        plain.generation_config = model.generation_config
    return plain.eval()
