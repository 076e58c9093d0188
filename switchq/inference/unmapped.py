"""Tensors of a safetensors file that are read instead of mapped.

Of a mapped file Linux counts more than what is read: pages beside it that it has in its cache come along, and all stay
with the process. What is read here is the process's own, and goes when the tensor goes.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from switchq.errors import UserError

TYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}
"""Types by their names in the file."""


class UnmappedFile:
    """A safetensors file whose header is known to be sound.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(size))
        self._begin = 8 + size

    def get_tensor(self, name: str) -> Tensor:
        """The tensor, in memory of its own.

        Raises:
            UserError: the file has become shorter.
        """
        entry = self._header[name]
        first, last = entry["data_offsets"]
        content = torch.empty(last - first, dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(self._begin + first)
            if file.readinto(content.numpy().data) != len(content):
                raise UserError(f"{self.path} is truncated; export again")
        return content.view(TYPES[entry["dtype"]]).view(entry["shape"])
