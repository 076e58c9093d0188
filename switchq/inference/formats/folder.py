"""A model folder with some of its linears packed, as other programs load it, and the way back.

All that is not packed stays a float. config.json, without which nothing loads the folder, is written last.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from switchq.errors import UserError
from switchq.files import write_json
from switchq.inference.formats.coded import Coded
from switchq.inference.formats.compressed_tensors import CompressedTensors
from switchq.inference.formats.gptq import Gptq
from switchq.inference.formats.packer import Packer
from switchq.models import architecture_of, load_config, weight_view

PACKERS: Mapping[str, Packer] = {packer.name: packer for packer in (CompressedTensors(), Gptq())}

FORMATS = ("hf", *PACKERS)

WEIGHTS = "model.safetensors"


def write_folder(
    place: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    packer: Packer | None,
    packed: Mapping[str, Coded],
    dtype: torch.dtype,
) -> None:
    """Write a plain model.

    Args:
        place: a folder that is there.
        model: the model.
        tokenizer: its tokenizer.
        packer: the format of what is packed; None packs nothing.
        packed: the linears to pack, by name, in model order.
        dtype: of all that is not packed.
    """
    config = deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(dtype).removeprefix("torch.")
    save_file(_tensors(model, packer, packed, dtype), place / WEIGHTS, metadata={"format": "pt"})
    (place / WEIGHTS).chmod(0o644)
    tokenizer.save_pretrained(place)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(place)
    if packer is not None:
        config.quantization_config = packer.config(packed, _floats(model, packed))
        for name, content in packer.files(config.quantization_config).items():
            write_json(place / name, content)
    config.save_pretrained(place)


@torch.no_grad()
def read_folder(folder: Path, packer: Packer, bits: int, symmetric: bool) -> PreTrainedModel:
    """The model in a folder whose linears are packed at one width, as floats.

    Args:
        folder: what `write_folder` wrote.
        packer: its format.
        bits: the width of a code.
        symmetric: whether it was written without zero points.

    Raises:
        UserError: files that are missing or damaged.
    """
    config = load_config(str(folder))
    del config.quantization_config
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    try:
        tensors = load_file(folder / WEIGHTS)
        first = f".{packer.parts[0]}"
        for name in [key.removesuffix(first) for key in tensors if key.endswith(first)]:
            parts = {part: tensors.pop(f"{name}.{part}") for part in packer.parts}
            weight_view(model.get_submodule(name)).copy_(packer.read(parts, bits, symmetric).weight())
            tensors[f"{name}.weight"] = model.get_parameter(f"{name}.weight")
        missing, strange = model.load_state_dict(tensors, strict=False)
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"the weights in {folder} are damaged: {' '.join(str(error).split())}") from None
    tied = {name for name in missing if name not in dict(model.named_parameters())}
    if wrong := [*strange, *(set(missing) - tied)]:
        raise UserError(f"the weights in {folder} are damaged: {min(wrong)} is missing, or has no place")
    return model.eval()


def _floats(model: PreTrainedModel, packed: Mapping[str, Coded]) -> list[str]:
    """The linears that are not packed, the head among them."""
    others = set(architecture_of(model.config).linear_names(model)) - set(packed)
    return [
        name
        for name, module in model.named_modules()
        if name not in packed and (isinstance(module, nn.Linear) or name in others)
    ]


def _tensors(
    model: PreTrainedModel, packer: Packer | None, packed: Mapping[str, Coded], dtype: torch.dtype
) -> dict[str, Tensor]:
    tensors = {
        name: parameter.detach().cpu().to(dtype)
        for name, parameter in model.named_parameters()
        if name.removesuffix(".weight") not in packed
    }
    if packer is not None:
        for name, layer in packed.items():
            tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in packer.tensors(layer).items()}
    return tensors
