"""How the Trainer writes and reads checkpoints: whole or not at all, flushed to the disk, and never as pickled code."""

import io
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from switchq.files import write_bytes


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's own, but for two things: a file is flushed before it takes its place, and only plain values and
    tensors are read, whatever the caller asks for."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; the one that was there stays until the new one is whole.

        Raises:
            UserError: it cannot be written.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(path, buffer.getbuffer(), "--trainer.default_root_dir")

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint (`weights_only=True`)."""
        return super().load_checkpoint(path, map_location, weights_only=True)
