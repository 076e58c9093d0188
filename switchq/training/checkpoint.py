"""Reading a checkpoint outside of a Trainer: find it, open it without running anything it holds, rebuild its module."""

from pathlib import Path
from typing import Any

import torch

from switchq.errors import UserError, reason
from switchq.mishaps import out_of_memory
from switchq.quant import Grid
from switchq.training.module import SwitchableModule


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint; only plain values and tensors are read (`weights_only=True`).

    Raises:
        UserError: missing, damaged, or not a checkpoint of this program.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"no checkpoint {file}; a run keeps its own under lightning_logs/version_N/checkpoints/last.ckpt"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of bytes that are no pickle anything may be raised, from its opcodes' own code too
        if out_of_memory(error):
            raise
        why = f": {reason(error)}" if isinstance(error, OSError) else ""  # others tell of torch, or advise to run code
        raise UserError(f"the checkpoint {file} is damaged or not a checkpoint{why}") from None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters", "base"} <= content.keys():
        raise UserError(f"{file} is not a switchq checkpoint")
    return content


def load_checkpoint(path: str | Path, base: str | None = None) -> SwitchableModule:
    """The module of a checkpoint, in evaluation mode.

    Args:
        path: the checkpoint file.
        base: where the base model lies now, if not where it lay in training; its weights must be the same.

    Raises:
        UserError: see `read_checkpoint`; or the base is missing or has other weights.
    """
    return restore_module(read_checkpoint(path), base)


def restore_module(checkpoint: dict[str, Any], base: str | None = None) -> SwitchableModule:
    """The module of a checkpoint that is already read; see `load_checkpoint`."""
    settings = dict(checkpoint["hyper_parameters"])
    settings["grid"] = Grid.from_dict(settings["grid"])
    if base is not None:
        settings["base"] = base
    module = SwitchableModule(**settings)
    for name, value in checkpoint["state_dict"].items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"the checkpoint is damaged: {name} has values that are not finite; take an earlier one")
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)  # it has been looked at just now
    return module.eval()


def newest_checkpoint(root: str | Path) -> Path:
    """The most recently written `last.ckpt` under `root`/lightning_logs.

    Raises:
        UserError: if there is none.
    """
    found = sorted(
        Path(root).glob("lightning_logs/version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        raise UserError(f"no checkpoint to resume from under {Path(root) / 'lightning_logs'}")
    return found[-1]
