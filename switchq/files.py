"""Output files and folders that are either whole or not there: written beside their place, flushed, then renamed.

Everything that this program writes for good goes through `new_file` or `new_folder`. What a killed process left beside
a place is cleared away by the next one that writes there.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from switchq.errors import MachineError, UserError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota and a limit on the size of files answer when nothing more fits."""


def short_names(paths: Sequence[str | Path], option: str) -> list[str]:
    """A name for each file: without its ending, and where files are called alike with the folders that tell them apart.

    >>> short_names(["a/wiki.txt", "b/wiki.txt", "c4.txt"], "--text")
    ['a-wiki', 'b-wiki', 'c4']

    Raises:
        UserError: one has no name, or is there twice; `option` is what the user gave them with.
    """
    for path in paths:
        if not Path(path).name:
            raise UserError(f"{option} {str(path)!r} is not the name of a file: give one")
    places = [Path(path).with_suffix("").parts for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"{option} {paths[number]}: given twice, or beside one that is called alike")
    return ["-".join(part.strip("/") for part in end) for end in ends_apart(places)]


def ends_apart(places: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Of each path, given in parts, as many of the last ones as it takes to tell it from the others."""
    ends = []
    for place in places:
        count = 1
        while count < len(place) and sum(other[-count:] == place[-count:] for other in places) > 1:
            count += 1
        ends.append(place[-count:])
    return ends


def check_writable(path: str | Path) -> None:
    """Make sure, before long work starts, that a file can be written at `path`; its folder is made if it is missing.

    Raises:
        UserError: `path` is a folder, or nothing can be created in its folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")
    check_beside(target)


def check_beside(target: Path, option: str = "--output") -> None:
    """Make sure that something can be created beside `target`, a file or a folder; its folder is made if it is missing.

    Raises:
        UserError: nothing can; `option` is what the user gave `target` with.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise unwritable(target, error, option) from None


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically; numbers that are not finite become null.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched.
    """
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str, option: str = "--output") -> None:
    """Write `text` as UTF-8, atomically; half a surrogate pair, which UTF-8 lacks, is written as its escape.

    `option` is what the user gave `path` with.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), option)


def write_bytes(path: str | Path, content: bytes | memoryview, option: str = "--output") -> None:
    """Write `content` atomically; the folder is made if it is missing.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched.
    """
    with new_file(path, option) as file:
        file.write(content)


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as JSON keeps them, with the SHA-256 of them all as `sha256`."""
    plain = json.loads(json.dumps({name: value for name, value in _finite(content).items() if name != "sha256"}))
    return {**plain, "sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def is_signed(content: Mapping[str, Any]) -> bool:
    """Whether the `sha256` of values that were read is theirs."""
    try:
        return content.get("sha256") == signed(content)["sha256"]
    except RecursionError:  # JSON reads what is nested deeper than it can be written again
        return False


@contextmanager
def new_file(path: str | Path, option: str = "--output") -> Iterator[IO[bytes]]:
    """A file to fill, which becomes `path` when the block ends, and is deleted if it raises.

    Args:
        path: where it is to be; its folder is made if it is missing.
        option: what the user gave `path` with, for messages.

    Raises:
        UserError: `path` cannot be written; a file that was there before is untouched. `MachineError` if the disk is
            full.
    """
    target = Path(path)
    part = _beside(target, "part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise unwritable(target, error, option) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path, overwrite: bool = False, option: str = "--output") -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends, and is deleted if it raises.

    Args:
        path: where it is to be.
        overwrite: replace what is there; only then.
        option: what the user gave `path` with, for messages.

    Raises:
        UserError: `path` is there already, or cannot be written. `MachineError` if the disk is full.
    """
    target = Path(path)
    part, old = _beside(target, "part"), _beside(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        if target.exists() and not overwrite:
            raise UserError(f"{target} is there already: give another {option}, or --overwrite")
        part.mkdir()
        yield part
        for file in [*part.rglob("*"), part]:
            _flush(file)
        if target.exists():
            target.replace(old)
        part.replace(target)
        _flush(target.parent)
    except Exception as error:
        cause = as_os_error(error)
        if cause is None:
            raise
        raise unwritable(target, cause, option) from None
    finally:
        if old.exists() and not target.exists():
            old.replace(target)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def as_os_error(error: BaseException) -> OSError | None:
    """The `OSError` that an exception is, or tells of: safetensors puts its number into a text."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def unwritable(target: Path, error: OSError, option: str = "--output") -> UserError:
    """The one line about a place that could not be written."""
    if error.errno in FULL_DISK:
        return MachineError(
            f"cannot write {target} ({error.strerror}): free some space there, or give {option} another place"
        )
    return UserError(f"cannot write {target} ({error.strerror}): give {option} a place that you may write to")


def is_left_over(path: Path) -> bool:
    """Whether a file or folder is what a process that was killed while it wrote has left beside its place."""
    return re.fullmatch(r"\..+\.\d+\.(part|old)", path.name) is not None


def _beside(target: Path, end: str) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{end}")


def _clear(target: Path) -> None:
    """Remove what processes that are no more left beside `target`; one killed between two renames gets its old folder
    back."""
    for left in target.parent.glob(f".{_literal(target.name)}.*.*"):
        found = re.fullmatch(r"\.(\d+)\.(part|old)", left.name.removeprefix(f".{target.name}"))
        if found is None or _alive(int(found[1])):
            continue
        if found[2] == "old" and not target.exists():
            left.replace(target)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


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
