"""One bitmap of a switchable model as a plain float32 model, for whatever reads `transformers` folders.

    weight = rounded weight + scaling x B A

The sum is a float weight: it saves no memory, and rounding it again would lose what the adapter gives.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.files import new_folder
from switchq.models import architecture_of, save_adapters
from switchq.nn import SwitchLayer, at, get_switch, switch_layers

Adapters = Literal["merged", "peft", "off"]


@torch.no_grad()
def export_dense(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    bitmap: Bitmap | str | int,
    *,
    adapters: Adapters = "merged",
    overwrite: bool = False,
) -> Path:
    """Write `model` at one bitmap as `transformers` does.

    Args:
        model: a switchable model.
        tokenizer: its tokenizer.
        folder: where to; made.
        bitmap: what to freeze it at.
        adapters: `merged` adds them to the weights; `peft` puts them in adapters/bits_N for `peft` to lay over the
            rounded weights, which takes one width for all layers; `off` leaves them out.
        overwrite: replace a folder that is there.

    Raises:
        UserError: a bitmap that does not fit, or mixes widths where `peft` adapters are asked for; a folder that is
            there or cannot be written.
    """
    parsed = Bitmap.parse(bitmap, get_switch(model).names)
    if adapters == "peft" and len(set(parsed)) > 1:
        raise UserError("peft lays one adapter over all layers: give one width, or --adapters merged")
    plain = plain_model(model, parsed, merge=adapters == "merged")
    with new_folder(folder, overwrite) as place:
        plain.save_pretrained(place)
        tokenizer.save_pretrained(place)
        if adapters == "peft":
            save_adapters(model, place / "adapters")
    return Path(folder)


@torch.no_grad()
def plain_model(model: PreTrainedModel, bitmap: Bitmap, merge: bool = True) -> PreTrainedModel:
    """`model` at `bitmap` as a `transformers` model with float32 weights and no module of ours."""
    with no_init_weights():
        plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.tie_weights()
    weights: dict[str, Tensor] = {}
    transposed = architecture_of(model.config).transposed
    names = set(architecture_of(model.config).linear_names(model))
    with at(model, bitmap):
        for layer in switch_layers(model):
            weight_OI = _merged(layer) if merge else layer.linear.effective_weight()
            turned = transposed and layer.name in names
            weights[f"{layer.name}.weight"] = weight_OI.T if turned else weight_OI
    for name, value in model.named_parameters():
        weights.setdefault(name.replace(".base_layer.", "."), value)
    for name, parameter in plain.named_parameters():
        parameter.data = weights[name].detach().to(torch.float32).clone(memory_format=torch.contiguous_format)
    if model.generation_config is not None:
        plain.generation_config = model.generation_config
    return plain.eval()


def _merged(layer: SwitchLayer) -> Tensor:
    weight_OI, factors = layer.linear.effective_weight().float(), layer.low_rank(layer.bits)
    if factors is None:
        return weight_OI
    a_RI, b_OR = factors
    return weight_OI + b_OR @ a_RI
