"""A journal of long work: one JSON object a line, flushed to disk before the work goes on.

    {"header": {"version": 2, "key": ..., ...}}   first, once
    {KIND: {...}}                                 what was found, in the order found

The line that a kill cut short has no line end and is dropped; any other line that cannot be read is an error. A lock
keeps a second process from writing to it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from switchq import parallel
from switchq.errors import UserError
from switchq.files import unwritable


class Busy(UserError):
    """Another process is writing the journal."""


class Journal:
    """What is known already, and a place to add to it; a subclass says of what work.

    Args:
        path: the file; None keeps everything in memory.
        header: `key` decides whether a journal found at `path` is of the same work.

    Attributes:
        version: of what the entries mean.
        kinds: the kinds of entries.
        work: what the work is called in messages.
        header: the header in force: that of the first run, after a resume.
        entries: what was found, by kind.
        resumed: whether the file was there.

    Raises:
        UserError: the file is of other work or damaged, or cannot be written; `Busy` if another process writes it.
    """

    version: ClassVar[int]
    kinds: ClassVar[tuple[str, ...]]
    work: ClassVar[str]

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header: dict[str, Any] = {"version": self.version, **header}
        self.entries: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self.kinds}
        self.resumed = False
        self._file = None
        if path is None:
            return
        try:
            self._file = open(path, "a+b")  # noqa: SIM115  open as long as the work
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Busy(f"another {self.work} is writing {path}: wait for it, or choose another --output") from None
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): give --output a place to write to") from None
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            self._read(whole)
        except UserError:
            self.close()
            raise
        if len(whole) < len(text):
            self._file.truncate(len(whole))
        self.resumed = bool(whole)
        if not self.resumed:
            self._write({"header": self.header})

    def add(self, kind: str, entry: dict[str, Any]) -> None:
        """Keep an entry; on return it is on the disk."""
        self.entries[kind].append(entry)
        self._write({kind: entry})

    def share(self) -> None:
        """Give all processes what the first one has read."""
        self.header, self.entries, self.resumed = parallel.from_first((self.header, self.entries, self.resumed))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(line).encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):  # what did not fit is still to be written
                    self._file.close()
                raise unwritable(Path(self._file.name), error) from None

    def _read(self, text: bytes) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                ((kind, entry),) = json.loads(line).items()
                if (number == 1) != (kind == "header") or (number > 1 and kind not in self.kinds):
                    raise ValueError
            except (ValueError, AttributeError, RecursionError):
                raise UserError(
                    f"{self.path} is damaged at line {number}: start the {self.work} anew with --overwrite"
                ) from None
            if kind != "header":
                self.entries[kind].append(entry)
            elif (entry.get("version"), entry.get("key")) != (self.version, self.header["key"]):
                raise UserError(
                    f"{self.path} belongs to an unfinished {self.work} of another model or with other settings: "
                    f"repeat its settings to go on with it, choose another --output, or give --overwrite"
                )
            else:
                self.header = entry


def key_of(content: Mapping[str, Any]) -> str:
    """A hash of plain values that does not depend on their order in the mapping."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
