"""What one run of a sweep came to: its figures as JSON, and beside them the values per window and question.

GPTQ-4.json   everything but the values per example
GPTQ-4.npz    `task|metric|values` and `task|metric|weights`, float64 arrays, for paired comparisons
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from switchq.bitmap import FULL, WIDTHS
from switchq.errors import UserError
from switchq.evaluation import write_bytes, write_json
from switchq.evaluation.tasks import Items

KIND = "ptq-run"

FULL_PRECISION = "full precision"

SWITCHQ = "switchq"

Place = tuple[str, int, str | None, int]
"""What tables tell runs apart by: name, width, calibration text and seed."""

_NUMBER = {int, float, type(None)}

_KINDS: Mapping[str, set[type]] = {
    "name": {str},
    "bits": {int},
    "seed": {int},
    "calibration": {str, type(None)},
    **dict.fromkeys(("effective_bits", "quantised_seconds", "peak_memory_mb", "size_before_mb", "size_mb"), _NUMBER),
}
"""Types of what a record holds, `True` being no number."""


@dataclass(frozen=True)
class RunRecord:
    """One method at one width, or the model that it is compared with.

    Attributes:
        name: of the method; `full precision`, or `switchq` for a trained switchable checkpoint.
        bits: bits of a code; 16 for full precision.
        seed: of the draw of the calibration samples and of the method.
        calibration: what it was calibrated on; None for a method that looks at no data.
        key: hash of everything that decides the figures.
        setting: what all methods of the sweep share.
        method: the method with its options.
        tasks: what was scored and how, as `Suite.describe` says it.
        error: why there are no scores; None where there are.
        scores: task -> metric -> figure; None where it is not finite.
        counts: task -> what was scored.
        effective_bits: stored bits per quantised weight: codes, scales, zero points, and adapters of a checkpoint.
        quantised_seconds: what quantising took; scoring is not in it.
        peak_memory_mb: most memory while quantising, MB.
        peak_memory_of: `cuda` or `resident`, see `switchq.evaluation.peak_memory`.
        details: what the engine noted: relative output error of the layers and its mean, calibration tokens and what
            running them took, layers left out.
        size_before_mb: weights of the model at 16 bits, MB (10^6 bytes).
        size_mb: weights as a packed file would hold them, MB.
        items_sha256: of the file beside this one.
        run: everything needed to repeat the run.
    """

    name: str
    bits: int
    seed: int = 0
    calibration: str | None = None
    key: str = ""
    setting: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    effective_bits: float | None = None
    quantised_seconds: float | None = None
    peak_memory_mb: float | None = None
    peak_memory_of: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    size_before_mb: float | None = None
    size_mb: float | None = None
    items_sha256: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """In a table."""
        return self.name, self.bits, self.calibration, self.seed

    @property
    def compression(self) -> float | None:
        """Size at 16 bits over size now."""
        if self.size_mb is None or self.size_before_mb is None:
            return None
        return self.size_before_mb / self.size_mb

    def figure(self, task: str, metric: str) -> float | None:
        """A figure; None where there is none, or none that is finite."""
        return self.scores.get(task, {}).get(metric)

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {"kind": KIND, **asdict(self), "compression": self.compression}

    @classmethod
    def from_record(cls, content: Any, where: str = "the record") -> Self:
        """The inverse of `record`.

        Raises:
            UserError: not such a record.
        """
        known = {item.name for item in fields(cls)}
        if not isinstance(content, Mapping) or content.get("kind") != KIND or not {"name", "bits"} <= content.keys():
            raise UserError(f"{where} is not a run of `switchq ptq`")
        for item in ("setting", "method", "tasks", "scores", "counts", "details", "run"):
            if not isinstance(content.get(item, {}), Mapping):
                raise UserError(f"{where} is damaged: {item!r} is not an object")
        for item, kinds in _KINDS.items():
            if item in content and type(content[item]) not in kinds:
                raise UserError(f"{where} is damaged: {item!r} is {content[item]!r}")
        if content["bits"] not in (*WIDTHS, FULL):
            raise UserError(f"{where} is damaged: 'bits' is {content['bits']!r}")
        if content.get("size_mb") is not None and not content["size_mb"] > 0:
            raise UserError(f"{where} is damaged: 'size_mb' is not more than 0")
        for one in content.get("scores", {}).values():
            if not isinstance(one, Mapping) or not {type(value) for value in one.values()} <= _NUMBER:
                raise UserError(f"{where} is damaged: 'scores' are not numbers by task and metric")
        return cls(**{name: value for name, value in content.items() if name in known})


ItemsByTask = Mapping[str, Mapping[str, Items]]


def pack_items(items: ItemsByTask) -> bytes:
    """The values per example as the bytes of an .npz file; the same values give the same bytes."""
    arrays = {}
    for task, metrics in items.items():
        for metric, one in metrics.items():
            arrays[f"{task}|{metric}|{one.scale}|values"] = np.asarray(one.values, dtype=np.float64)
            arrays[f"{task}|{metric}|{one.scale}|weights"] = np.asarray(one.weights, dtype=np.float64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_items(path: Path, sha256: str | None) -> dict[str, dict[str, Items]]:
    """The inverse of `pack_items`, from a file.

    Raises:
        UserError: missing, damaged, or other bytes than `sha256` says.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}, the values per example ({error.strerror})") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: its hash is not that of its record")
    found: dict[str, dict[str, Items]] = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in arrays.files:
                task, metric, scale, part = name.rsplit("|", 3)
                if part == "values":
                    weights = arrays[f"{task}|{metric}|{scale}|weights"]
                    found.setdefault(task, {})[metric] = Items(
                        tuple(arrays[name].tolist()),
                        tuple(weights.tolist()),
                        "exp" if scale == "exp" else "mean",
                    )
    except (ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return found


def write_run(path: Path, record: RunRecord, items: bytes | None) -> None:
    """Write a run: its values first, then its record, so that a record never lacks its values.

    Raises:
        UserError: `path` cannot be written.
    """
    if items is not None:
        write_bytes(path.with_suffix(".npz"), items)
    write_json(path, record.record())


def read_run(path: Path) -> RunRecord:
    """A run from its JSON file.

    Raises:
        UserError: missing, damaged, or of another kind.
    """
    try:
        return RunRecord.from_record(json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}") from None
