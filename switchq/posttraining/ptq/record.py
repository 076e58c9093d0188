"""What a quantisation did, as plain values: settings, sizes, errors, cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from switchq.evaluation.memory import MB
from switchq.files import write_json


@dataclass(frozen=True)
class QuantisedLayer:
    """One layer.

    Attributes:
        name: the dotted name.
        shape: (O, I).
        bits: the width of a code.
        overhead_bits: bits beside the codes: scales, zero points, explicit scales of the input.
        levels: most different codes that a group uses.
        error: E|(W - Q) x|^2 / E|W x|^2 over at most 512 sampled tokens; None without calibration text.
        notes: what the transforms found.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    overhead_bits: int
    levels: int
    error: float | None
    notes: Mapping[str, Any]

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def effective_bits(self) -> float:
        """Bits per weight, all that is stored beside the codes counted."""
        return self.bits + self.overhead_bits / self.weights


@dataclass(frozen=True)
class Quantised:
    """A quantised model's record.

    Attributes:
        name: the method's name.
        method: the method, every hyper-parameter named.
        setting: the setting.
        layers: the quantised layers, in model order.
        skipped: the block linears that were left out.
        skipped_weights: how many weights they have.
        bytes_before: of the whole model, 16 bits a weight, tied tensors once.
        bytes_after: of a packed file: codes, what is beside them, 16 bits for everything else.
        seconds: of the whole quantisation.
        collecting_seconds: of these, what running the calibration text through the model took. A method that needs no
            statistics is shown the text only to measure its errors.
        peak_memory_mb: the peak, and
        peak_memory_of: what it is of, as `switchq.evaluation.memory.peak_memory` says.
        calibration_tokens: tokens that statistics are over.
        reload: what a plain reload of the saved model loses.
    """

    name: str
    method: Mapping[str, Any]
    setting: Mapping[str, Any]
    layers: tuple[QuantisedLayer, ...]
    skipped: tuple[str, ...]
    skipped_weights: int
    bytes_before: float
    bytes_after: float
    seconds: float
    peak_memory_mb: float
    peak_memory_of: str
    calibration_tokens: int
    reload: str
    collecting_seconds: float = 0.0

    @property
    def effective_bits(self) -> float:
        """Bits per block weight, all that is stored beside the codes counted, left-out layers at 16."""
        weights = sum(layer.weights for layer in self.layers)
        stored = sum(layer.effective_bits * layer.weights for layer in self.layers)
        return (stored + 16 * self.skipped_weights) / (weights + self.skipped_weights)

    @property
    def mean_error(self) -> float | None:
        """Mean relative output error of the layers; None without calibration text."""
        errors = [layer.error for layer in self.layers if layer.error is not None]
        return sum(errors) / len(errors) if errors else None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, sums and means included."""
        content = asdict(self)
        for layer, own in zip(self.layers, content["layers"], strict=True):
            own["effective_bits"] = layer.effective_bits
        return content | {
            "effective_bits": self.effective_bits,
            "mean_error": self.mean_error,
            "weight_mb": self.bytes_after / MB,
        }

    def write(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            UserError: `path` cannot be written.
        """
        write_json(path, self.to_dict())
