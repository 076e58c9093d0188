"""A folder that says of itself what it holds: `switchq.json` with the hash of every other file and its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.evaluation.provenance import sha256
from switchq.files import is_signed, signed, write_json
from switchq.models.made import METADATA


def seal(folder: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write `switchq.json` last, when all other files are there."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: sha256(folder / name) for name in names if name != METADATA}
    write_json(folder / METADATA, signed({"kind": kind, "files": files, **content}))


def read_seal(folder: Path) -> dict[str, Any]:
    """The contents of a folder's `switchq.json`.

    Raises:
        UserError: none is there, or it is damaged.
    """
    path = folder / METADATA
    if not path.is_file():
        raise UserError(
            f"{folder} is no saved model of `switchq ptq --save` or `switchq export --format`: "
            f"there is no {METADATA} in it"
        )
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or "kind" not in content:
        raise UserError(f"{path} is damaged: it names no files")
    if "sha256" in content and not is_signed(content):  # the first ones had none
        raise UserError(f"{path} is damaged: its checksum does not match")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise UserError(f"{path} is damaged: it names files outside its folder")
    return content


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compare every file with its hash.

    Raises:
        UserError: one that is missing or has changed.
    """
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{folder} is incomplete: {name} is not there")
        if sha256(file) != expected:
            raise UserError(f"{folder} is damaged: {name} has changed since it was written (SHA-256)")
