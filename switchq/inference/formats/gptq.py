"""The checkpoint format of GPTQ, which GPTQModel, vLLM and, with GPTQModel or AutoRound, `transformers` load.

| tensor | what it is |
|---|---|
| `qweight` | (I b / 32, O) int32: the codes of an output, packed along the inputs, see `switchq.quant.words` |
| `qzeros` | (G, O b / 32) int32: zero points, packed along the outputs |
| `scales` | (G, O) float16 |
| `g_idx` | (I,) int32: the group of each input |

Format 1 (`gptq`) stores zero points less 1, so 0 would wrap into its neighbour; it is written where all zero points are
2^(b - 1), and format 2 (`gptq_v2`), which stores them as they are, elsewhere. A Conv1D is packed like a linear: it is
the reader that tells them apart. Layers of other widths, and those left out, are named in `dynamic`, which GPTQModel
and vLLM read.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from switchq.errors import UserError
from switchq.evaluation.provenance import versions
from switchq.inference.formats.coded import Coded
from switchq.inference.formats.packer import Packer
from switchq.models.architecture import Architecture
from switchq.quant.words import pack_words, unpack_words

PACKED_TOGETHER = 32
"""Inputs, and outputs, come in multiples of this: the least that any width packs into whole words."""


class Gptq(Packer):
    """See the module."""

    name = "gptq"
    parts = ("qweight", "qzeros", "scales", "g_idx")
    widths = (8, 4, 3, 2)
    zero_points = True

    def check_model(self, architecture: Architecture, shapes: Mapping[str, tuple[int, int]], option: str) -> None:
        """Refuse sizes that do not fill words."""
        for name, shape in shapes.items():
            if any(size % PACKED_TOGETHER for size in shape):
                raise UserError(
                    f"gptq packs inputs and outputs {PACKED_TOGETHER} at a time, and {name} has {shape[1]} and "
                    f"{shape[0]}: choose {option} compressed-tensors or hf"
                )

    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """See the module."""
        zero_GO = layer.zero_OG.T - (1 if layer.symmetric else 0)
        return {
            "qweight": pack_words(layer.codes_OI, layer.bits).T.contiguous(),
            "qzeros": pack_words(zero_GO, layer.bits),
            "scales": layer.scale_OG.half().T.contiguous(),
            "g_idx": layer.group_I.int(),
        }

    def read(self, parts: Mapping[str, Tensor], bits: int, symmetric: bool) -> Coded:
        """See the module."""
        scale_OG = parts["scales"].T.float()
        outputs, groups = scale_OG.shape
        inputs = len(parts["g_idx"])
        codes_OI = unpack_words(parts["qweight"].T, inputs, bits)
        zero_OG = unpack_words(parts["qzeros"], outputs, bits).T + (1 if symmetric else 0)
        return Coded(codes_OI, scale_OG, zero_OG, bits, inputs // groups, symmetric)

    def config(self, layers: Mapping[str, Coded], floats: Sequence[str]) -> dict[str, Any]:
        """The commonest width stands for all, exceptions are in `dynamic`."""
        bits = Counter(layer.bits for layer in layers.values()).most_common(1)[0][0]
        dynamic: dict[str, dict[str, int]] = {f"-:^{re.escape(name)}$": {} for name in floats}
        for name, layer in layers.items():
            if layer.bits != bits:
                dynamic[f"+:^{re.escape(name)}$"] = {"bits": layer.bits}
        first = next(iter(layers.values()))
        return {
            "quant_method": "gptq",
            "checkpoint_format": "gptq" if first.symmetric else "gptq_v2",
            "bits": bits,
            "group_size": first.group_size or -1,
            "sym": first.symmetric,
            "desc_act": False,
            "lm_head": False,
            "pack_dtype": "int32",
            "dynamic": dynamic or None,
            "meta": {"quantizer": [f"switchq:{versions().get('switchq', 0)}"]},
        }

    def files(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """quantize_config.json, where older readers look."""
        return {"quantize_config.json": dict(config)}
