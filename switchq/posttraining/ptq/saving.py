"""A quantised model on disk, and whether what is there is still what was scored.

The folder is one of `save_pretrained`: rounded weights as floats, which `AutoModelForCausalLM.from_pretrained` reads
without this program; or one with packed codes, which it reads with the package that the format belongs to.
`switchq.json` beside them holds the run's record, the hash of every file and of the weights as floats, and
`switchq.npz` the values per window and question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.errors import UserError
from switchq.evaluation import write_bytes
from switchq.evaluation.sealed import METADATA, read_seal, seal
from switchq.files import check_beside, new_folder
from switchq.inference.formats import FORMATS, PACKERS, read_folder, write_folder
from switchq.models import content_hash, load_model
from switchq.posttraining.ptq.packing import Packing
from switchq.posttraining.ptq.results import RunRecord

KIND = "ptq-model"

VALUES = "switchq.npz"

HF = "hf"
"""Weights as floats."""


def check_free(folder: Path, overwrite: bool) -> None:
    """Make sure, before long work starts, that a model can be saved there.

    Raises:
        UserError: something is there, or it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot save to {folder}: it is a file; give the name of a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise UserError(f"{folder} is not empty: give another --save, or --overwrite")
        if not (folder / METADATA).is_file():
            raise UserError(f"{folder} holds something else than a saved model: give another --save")
    check_beside(folder, "--save")


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    record: RunRecord,
    items: bytes,
    packing: Packing | None = None,
) -> None:
    """Write a model with its record, whole or not at all: what was there before is replaced in one step.

    Args:
        folder: where to.
        model: with rounded weights.
        tokenizer: its tokenizer.
        record: of the run that made it.
        items: its values per window and question.
        packing: the codes, for a packed format; without, weights are written as floats.

    Raises:
        UserError: it cannot be written.
    """
    said: dict[str, Any] = {"weights_sha256": content_hash(model), "record": record.record()}
    with new_folder(folder, overwrite=True, option="--save") as part:
        if packing is None:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        else:
            said |= {"format": packing.format, "symmetric": packing.symmetric}
            write_folder(part, model, tokenizer, packing.packer, packing.layers, model.dtype)
        write_bytes(part / VALUES, items)
        seal(part, KIND, said)


@dataclass(frozen=True)
class Saved:
    """A saved model's metadata.

    Attributes:
        folder: where it lies.
        record: the run that made it.
        weights_sha256: `content_hash` of its weights.
        files: name -> SHA-256.
        format: `hf`, or a packed one.
        symmetric: whether packed levels have no zero points.
    """

    folder: Path
    record: RunRecord
    weights_sha256: str
    files: Mapping[str, str]
    format: str = HF
    symmetric: bool = False

    def load(self) -> PreTrainedModel:
        """The model, its weights as floats in the dtype that it was scored in.

        Raises:
            UserError: files that are missing or damaged.
        """
        if self.format == HF:
            return load_model(str(self.folder), str(self.record.run.get("dtype", "float32")))  # type: ignore[arg-type]
        return read_folder(self.folder, PACKERS[self.format], self.record.bits, self.symmetric)

    def check_weights(self, model: PreTrainedModel) -> None:
        """Compare the weights that were loaded with those that were scored.

        Raises:
            UserError: they differ.
        """
        found = content_hash(model)
        if found != self.weights_sha256:
            raise UserError(f"the weights loaded from {self.folder} are not those that were saved ({found[:12]})")


def read_saved(folder: Path) -> Saved:
    """The metadata of a saved model; its files are not looked at yet.

    Raises:
        UserError: no such folder, or no or damaged metadata.
    """
    content = read_seal(folder)
    path = folder / METADATA
    try:
        if content["kind"] != KIND:
            raise ValueError("it is of another kind")
        record = RunRecord.from_record(content["record"], str(path))
        files = {str(name): str(value) for name, value in content["files"].items()}
        format = str(content.get("format", HF))
        if format not in FORMATS:
            raise ValueError(f"it knows no format {format!r}")
        symmetric = bool(content.get("symmetric", False))
        return Saved(folder, record, str(content["weights_sha256"]), files, format, symmetric)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}") from None


def holds(folder: Path, key: str, format: str) -> bool:
    """Whether the model of the run with this key is saved there, whole, in this format."""
    try:
        saved = read_saved(folder)
        return (saved.record.key, saved.format) == (key, format)
    except UserError:
        return False
