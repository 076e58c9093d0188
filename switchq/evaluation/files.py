"""Output files and folders that are either whole or not there: written beside their place, flushed, then renamed."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from switchq.errors import UserError


def check_writable(path: str | Path) -> None:
    """Make sure, before long work starts, that a file can be written at `path`; its folder is made if it is missing.

    Raises:
        UserError: `path` is a folder, or nothing can be created in its folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise _unwritable(target, error) from None


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically; numbers that are not finite become null.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched.
    """
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; half a surrogate pair, which UTF-8 lacks, is written as its escape.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` atomically; the folder is made if it is missing.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether a file is what a process that was killed while it wrote has left beside the file's place."""
    return path.name.startswith(".") and path.name.endswith(".part")


@contextmanager
def new_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends, and is deleted if it raises.

    Args:
        path: where it is to be.
        overwrite: replace what is there; only then.

    Raises:
        UserError: `path` is there already, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already: give another --output, or --overwrite")
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        for file in [*part.iterdir(), part]:
            _flush(file)
        if target.exists():
            target.replace(old)
        part.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def _unwritable(target: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {target} ({error.strerror}): give --output a place that you may write to")
