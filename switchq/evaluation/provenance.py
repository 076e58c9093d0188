"""Everything needed to repeat a measurement, as one plain dict: what was run, on which bytes, with which versions."""

import hashlib
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from switchq.words import count_of

PACKAGES = ("transformers", "peft", "lightning", "switchq")


def run_record(
    model: PreTrainedModel,
    *,
    base: str,
    base_hash: str | None = None,
    checkpoint: str | Path | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a run of `model`.

    Args:
        model: gives device and dtype.
        base: name or path of the base model.
        base_hash: its content hash.
        checkpoint: the checkpoint file whose weights were laid over the base; its hash is taken here.
        data: the data file (hashed here) or the name of a data set on the Hub.
        seed: the seed of the run, where one matters.
        settings: whatever else was chosen: prompt, batch size, token limits, grid, ranks.
    """
    weight = next(model.parameters())
    return {
        "base": base,
        "base_hash": base_hash,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "checkpoint_sha256": None if checkpoint is None else sha256(checkpoint),
        "data": None if data is None else str(data),
        "data_sha256": sha256(data) if data is not None and Path(data).is_file() else None,
        "device": device_name(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "float32_products": torch.get_float32_matmul_precision(),
        "seed": seed,
        "settings": dict(settings or {}),
        "versions": versions(),
        "command": shlex.join(sys.argv),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the figures."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: _version(name) for name in PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """What a GPU calls itself; for the CPU, its architecture and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {count_of(torch.get_num_threads(), 'thread')})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
