"""What a bitmap weighs and what a run took.

Weight bytes count what a packed file of the model at this bitmap would hold, whatever the tensors in memory look like:

    codes         b bits for each weight of a layer at b < 16 bits
    scales        what the layer's grid stores beside the codes (16-bit scales, b-bit zero points)
    adapters      16 bits for each weight of the LoRA adapters that the bitmap switches on; where they are off, of what
                  was taken out of the weights
    unquantised   16 bits for everything else: embeddings, norms, biases, layers at 16 bits; tied tensors once.
                  An artifact's 8-bit embeddings count as they are stored

One MB is 10^6 bytes.
"""

import contextlib
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from switchq.bitmap import FULL, Bitmap
from switchq.nn import switch_layers
from switchq.nn.norm import is_own_norm

MB = 1e6


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a model's weights at one bitmap, part by part."""

    codes: float
    scales: float
    adapters: float
    unquantised: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.codes + self.scales + self.adapters + self.unquantised

    def in_mb(self) -> dict[str, float]:
        """The parts in MB, for a report."""
        return {
            "codes": self.codes / MB,
            "scales": self.scales / MB,
            "adapters": self.adapters / MB,
            "unquantised": self.unquantised / MB,
        }


def weight_bytes(model: nn.Module, bitmap: Bitmap, *, adapters: bool = True) -> WeightBytes:
    """Count the bytes of `model` at `bitmap`.

    Args:
        model: a switchable model.
        bitmap: one bit-width per layer of `switch_layers(model)`.
        adapters: whether the adapters are switched on; without them, what was taken out of the weights counts.
    """
    codes_bits, scale_bits, adapter_weights = 0, 0, 0
    elsewhere = {id(p) for name, p in model.named_parameters() if is_own_norm(name)}  # one counts: the base's, as large
    for layer, bits in zip(switch_layers(model), bitmap, strict=True):
        weight_OI, bias_O = getattr(layer.linear, "weight", None), getattr(layer.linear, "bias", None)
        lora: Any = layer.lora
        owned = [*layer.linear.parameters(), *(lora.parameters() if lora is not None else ())]
        elsewhere |= {id(p) for p in owned if p is not bias_O and p is not weight_OI}
        if bits != FULL:
            elsewhere.add(id(weight_OI))
            codes_bits += bits * layer.size
            scale_bits += layer.linear.grid.overhead_bits(layer.shape, bits)
        adapter_weights += layer.adapter_weights(bits, adapters)
    rest = sum(p.numel() for p in model.parameters() if id(p) not in elsewhere)
    tables = sum(getattr(module, "table_bytes", 0) for module in model.modules())
    return WeightBytes(codes_bits / 8, scale_bits / 8, adapter_weights * 2.0, rest * 2.0 + tables)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak: on a GPU that of PyTorch, on the CPU that of the process, where Linux lets it be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> tuple[float, str]:
    """The peak in MB, and what it measures.

    `cuda` is the most memory that PyTorch had allocated on the GPU since `reset_peak_memory`; `resident` is the most
    that the whole process had in RAM since then, the model included, or since its start where it cannot be reset.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB, "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MB, "resident"
