"""An artifact on disk: a folder that holds one model at all its widths, and a reader that touches only what it needs.

    artifact.json          the manifest: version, layers, widths, adapters, SHA-256 of all tensors, files and itself
    weights.safetensors    all tensors
    config.json, tokenizer files, ... as `transformers` writes them

| tensor | what it is |
|---|---|
| `plane{k}.{layer}` | bit-plane k of a layer's codes, see `switchq.quant.planes`; plane k of all layers lies together |
| `levels{b}.scale.{layer}`, `levels{b}.offset.{layer}` | (O, G) float16, where the levels of b bits lie |
| `adapter{b}.A.{layer}`, `adapter{b}.B.{layer}` | (R, I) and (O, R) float16 |
| `taken.A.{layer}`, `taken.B.{layer}` | the same of what weights were rounded without; runs when adapters do not |
| `codes.{name}`, `scale.{name}` | an 8-bit embedding table: (V, I) int8, (V, 1) float16 |
| `rest.{name}` | any other parameter |

The tensors are mapped, not copied. A tensor is checked against its SHA-256 when it is first read, and counted then.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from switchq.bitmap import check_width
from switchq.errors import UserError
from switchq.files import is_signed, signed
from switchq.inference.unmapped import UnmappedFile
from switchq.models.made import MANIFEST
from switchq.quant.planes import plane_bytes

FORMAT = "switchq artifact"
VERSION = 2
"""The newest that is read. What holds nothing that was taken out of weights is written as 1, which came before that."""

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    Attributes:
        base: name and content hash of the base model.
        grid: the nested grid, as `Grid.to_dict` gives it.
        widths: the widths that it runs at, widest first.
        layers: name -> (O, I) of every packed linear, in model order.
        adapters: the widths with adapters.
        embedding_bits: 8, 16 or 32.
        data: the options of the data that it was trained on: how a question becomes text.
        source: where it came from, and what packing it cost.
        tensors: SHA-256 of every tensor.
        files: SHA-256 of every other file.
    """

    base: Mapping[str, str]
    grid: Mapping[str, Any]
    widths: tuple[int, ...]
    layers: Mapping[str, tuple[int, int]]
    adapters: tuple[int, ...]
    embedding_bits: int
    data: Mapping[str, Any]
    source: Mapping[str, Any]
    tensors: Mapping[str, str] = field(repr=False)
    files: Mapping[str, str] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As plain values, with format, version and the hash of it all."""
        version = VERSION if any(name.startswith("taken.") for name in self.tensors) else 1
        return signed({"format": FORMAT, "version": version, **asdict(self)})

    @classmethod
    def from_json(cls, content: Mapping[str, Any], place: Path) -> Self:
        """The inverse.

        Raises:
            UserError: not an artifact, one of a newer version, a damaged one.
        """
        if content.get("format") != FORMAT or not isinstance(content.get("version"), int):
            raise UserError(f"{place} is not a switchq artifact")
        if content["version"] > VERSION:
            raise UserError(
                f"{place} has format version {content['version']}, and this switchq reads up to {VERSION}: "
                f"use a newer switchq, or export again"
            )
        fields = {name: value for name, value in content.items() if name not in ("format", "version", "sha256")}
        if not is_signed(content):
            raise UserError(f"{place} is damaged: its checksum does not match; export again")
        try:
            if not fields["widths"] or not fields["layers"]:
                raise ValueError("it has no widths or no layers")
            return cls(
                **{
                    **fields,
                    "widths": tuple(check_width(bits) for bits in fields["widths"]),
                    "layers": {
                        str(name): (int(rows), int(inputs)) for name, (rows, inputs) in fields["layers"].items()
                    },
                    "adapters": tuple(check_width(bits) for bits in fields["adapters"]),
                    "tensors": {name: str(digest) for name, digest in fields["tensors"].items()},
                    "files": {_inside(name): str(digest) for name, digest in fields["files"].items()},
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{place} is damaged: {error}; export again") from None


class Artifact:
    """An artifact that is open for reading.

    Args:
        folder: the artifact's folder.

    Raises:
        UserError: missing, not an artifact, of a newer version, truncated or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{folder} is not a switchq artifact: it has no {MANIFEST}; switchq export makes one")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}; export again") from None
        self.manifest = Manifest.from_json(content if isinstance(content, dict) else {}, path)
        for name, expected in self.manifest.files.items():
            self._check(name, self._bytes(name), expected)
        try:
            self._file = safe_open(str(self.folder / WEIGHTS), framework="pt")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self.folder / WEIGHTS} is truncated, damaged or missing: {error}; export again"
            ) from None
        missing = set(self.manifest.tensors) - set(self._file.keys())
        if missing:
            raise UserError(f"{self.folder / WEIGHTS} is damaged: it has no {min(missing)}; export again")
        self._check_planes()
        self._read: dict[str, int] = {}

    @cached_property
    def _unmapped(self) -> UnmappedFile:
        return UnmappedFile(self.folder / WEIGHTS)

    @property
    def bytes_read(self) -> int:
        """Bytes of all tensors that were read so far."""
        return sum(self._read.values())

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.manifest.tensors

    def names(self, prefix: str) -> list[str]:
        """The tensors whose names begin with `prefix`, without it."""
        return [name.removeprefix(prefix) for name in self.manifest.tensors if name.startswith(prefix)]

    def tensor(self, name: str, mapped: bool = True) -> Tensor:
        """A tensor, checked; one that is mapped from the file must not be written to.

        Args:
            name: of the tensor.
            mapped: False to read it into memory of its own, which goes with it.

        Raises:
            UserError: its bytes are not those that were written.
        """
        if name not in self.manifest.tensors:
            raise UserError(f"the artifact {self.folder} has no {name}")
        value: Tensor = (self._file if mapped else self._unmapped).get_tensor(name)
        if name not in self._read:
            self._check(name, tensor_bytes(value), self.manifest.tensors[name])
            self._read[name] = value.nbytes
        return value

    def _check_planes(self) -> None:
        """Make sure that every plane is as long as its layer's shape asks for: kernels read that far."""
        for layer, shape in self.manifest.layers.items():
            for name in (f"plane{k}.{layer}" for k in range(max(self.manifest.widths))):
                if name not in self.manifest.tensors:
                    raise UserError(f"the artifact {self.folder} is damaged: it has no {name}; export again")
                if self._file.get_slice(name).get_shape() != [plane_bytes(shape)]:
                    raise UserError(f"the artifact {self.folder} is damaged: {name} has a wrong length; export again")

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"the artifact {self.folder} is incomplete: {name}: {error.strerror}") from None

    def _check(self, name: str, content: Any, expected: str) -> None:
        if hashlib.sha256(content).hexdigest() != expected:
            raise UserError(
                f"the artifact {self.folder} is damaged: the checksum of {name} does not match; export again"
            )


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in order."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _inside(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"it names {name!r}, which is outside its folder")
    return name
