"""The format `pack-quantized` of compressed-tensors, which vLLM and, with that package, `transformers` load.

| tensor | what it is |
|---|---|
| `weight_packed` | (O, ceil(I b / 32)) int32: a row's codes, see `switchq.quant.words` |
| `weight_scale` | (O, G) float16 |
| `weight_shape` | (O, I), int64 |

A scheme names the layers that it is for, so widths may differ. Versions of the package lay codes out alike only where b
divides 32. Only `nn.Linear` is known, so GPT-2's Conv1D cannot be held. Zero points are part of the format, but version
0.20 of the package and `transformers` 5.23 fail to load them, so they are not written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.inference.formats.coded import Coded
from switchq.inference.formats.packer import Packer
from switchq.models.architecture import Architecture
from switchq.quant.words import pack_words, unpack_words


class CompressedTensors(Packer):
    """See the module."""

    name = "compressed-tensors"
    parts = ("weight_packed", "weight_scale", "weight_shape")
    widths = (8, 4, 2)
    zero_points = False

    def check_model(self, architecture: Architecture, shapes: Mapping[str, tuple[int, int]], option: str) -> None:
        """Refuse Conv1D."""
        if architecture.transposed:
            raise UserError(
                f"compressed-tensors packs nn.Linear only, and {architecture.model_types[0]} is built of Conv1D: "
                f"choose {option} gptq or hf"
            )

    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """See the module.

        Raises:
            UserError: a layer with zero points.
        """
        if not layer.symmetric:
            raise UserError(
                "compressed-tensors is read without zero points only: choose --format gptq or hf, or a Symmetric grid"
            )
        return {
            "weight_packed": pack_words(layer.codes_OI, layer.bits),
            "weight_scale": layer.scale_OG.half(),
            "weight_shape": torch.tensor(layer.codes_OI.shape),
        }

    def read(self, parts: Mapping[str, Tensor], bits: int, symmetric: bool) -> Coded:
        """See the module; what is not symmetric is not written."""
        scale_OG, inputs = parts["weight_scale"].float(), int(parts["weight_shape"][1])
        zero_OG = torch.full_like(scale_OG, 2 ** (bits - 1), dtype=torch.int16)
        codes_OI = unpack_words(parts["weight_packed"], inputs, bits)
        return Coded(codes_OI, scale_OG, zero_OG, bits, inputs // scale_OG.shape[1], True)

    def config(self, layers: Mapping[str, Coded], floats: Sequence[str]) -> dict[str, Any]:
        """One group a scheme; a scheme that all layers share is for every `Linear` but `floats`."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, layer in layers.items():
            groups.setdefault((layer.bits, layer.group_size), []).append(name)
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                f"group_{number}": {
                    "targets": ["Linear"] if len(groups) == 1 else names,
                    "weights": {
                        "num_bits": bits,
                        "type": "int",
                        "symmetric": True,
                        "strategy": "channel" if size is None else "group",
                        "group_size": size,
                        "dynamic": False,
                    },
                    "input_activations": None,
                    "output_activations": None,
                    "format": "pack-quantized",
                }
                for number, ((bits, size), names) in enumerate(groups.items())
            },
            "ignore": list(floats),
        }
