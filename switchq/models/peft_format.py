"""Adapters as plain peft reads them: one folder per width, for the model as `transformers` builds it.

peft knows a Conv1D weight, (in, out), by `fan_in_fan_out`; past the door our weights are (out, in), so the flag is put
back here. The factors A (R, I) and B (O, R) are the same on both sides. A shared adapter is written into the folder of
every width too: two adapters of ranks R and S are one of rank R + S. What was taken out of the model's weights is still
in the base's: for those it comes along, too, with its sign turned.
"""

from copy import copy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from switchq.files import new_folder
from switchq.models.load import architecture_of
from switchq.nn import switch_layers
from switchq.nn.adapters import SHARED, TAKEN

PREFIX = "base_model.model."
"""What peft puts before the name of every parameter."""


def save_adapters(
    model: PreTrainedModel,
    folder: str | Path,
    write: bool = True,
    over_base: bool = True,
    bits: int | None = None,
) -> list[Path]:
    """Write what runs at each width to `folder`/bits_N, for `peft.PeftModel.from_pretrained(base, ...)`.

    A shared adapter is also written by itself, to `folder`/shared: widths without an adapter of their own run with it.

    Args:
        model: a switchable model with a frozen base; adapters alone do not say what a trained base has become.
        folder: where to put the folders; made if it is missing, folders of these names are replaced.
        write: whether to; where the model is spread over several processes all have to call this, and one writes.
        over_base: whether they are for the base model, or for the weights of this one, rounded or not.
        bits: only what runs at this width; the shared adapter where that has none of its own.

    Returns:
        The folders, one per adapter.

    Raises:
        UserError: if `folder` cannot be written.
    """
    configs: dict[str, LoraConfig] = getattr(model, "peft_config", {})
    wanted = [name for name in configs if name != TAKEN]
    if bits is not None:
        wanted = switch_layers(model)[0].adapters_for(bits)[-1:]  # its own comes last
    written = []
    for name in wanted:
        config = configs[name]
        place = Path(folder) / name
        plain, weights = copy(config), _weights(model, name)
        sign = {one: 1.0 for one in (SHARED, name) if one in configs}
        if over_base and TAKEN in configs:
            sign[TAKEN] = -1.0
        if len(sign) > 1:
            weights = _joined([(_weights(model, one), configs[one], by) for one, by in sign.items()])
            plain.r = plain.lora_alpha = sum(configs[one].r for one in sign)
        if not write:
            continue
        plain.fan_in_fan_out = architecture_of(model.config).transposed
        plain.base_model_name_or_path = model.config.name_or_path
        plain.inference_mode = True
        with new_folder(place, overwrite=True) as whole:
            plain.save_pretrained(str(whole))
            save_file(
                {PREFIX + key: value.detach().cpu().contiguous() for key, value in weights.items()},
                whole / "adapter_model.safetensors",
                metadata={"format": "pt"},
            )
        written.append(place)
    return written


def _weights(model: PreTrainedModel, name: str) -> dict[str, Tensor]:
    """The factors of an adapter by the names that peft gives them, whole if each process holds only a part."""
    found: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in found.items()}


def _joined(adapters: list[tuple[dict[str, Tensor], LoraConfig, float]]) -> dict[str, Tensor]:
    """The factors of the adapters' sum, each with a sign, scaling 1: rows of A one after the other, columns of B times
    their scaling."""
    joined = {}
    for key in adapters[0][0]:
        if ".lora_A." in key:
            joined[key] = torch.cat([weights[key] for weights, _, _ in adapters])
        else:
            scaled = [weights[key] * (sign * config.lora_alpha / config.r) for weights, config, sign in adapters]
            joined[key] = torch.cat(scaled, dim=1)
    return joined
