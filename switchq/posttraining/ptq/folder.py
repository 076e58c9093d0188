"""The folder of a sweep, and how one that was killed goes on.

sweep.json         what all runs share, and the record of each: the leaderboard
runs/NAME.json     one run, written as soon as it is scored; NAME.npz holds its values per example

A run has a key, the hash of everything that decides its figures. A run whose file is there with that key is not
repeated, whichever command asks for it, so a sweep may be narrowed, widened and gone on with; a failed one is tried
again. All runs share one setting: what a table would take for seeds of one method are seeds of one method. A lock keeps
a second process out.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from switchq import parallel
from switchq.errors import UserError
from switchq.evaluation import write_json
from switchq.files import is_left_over
from switchq.posttraining.ptq.results import FULL_PRECISION, SWITCHQ, Place, RunRecord, read_run, write_run

KIND = "ptq"

APART = ("bits", "calibration", "seeds")
"""Lists in the setting of a sweep that it may be widened by: each run says what it has of them."""


class SweepFolder:
    """Where the runs of a sweep lie.

    Args:
        path: the folder; made by `claim`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.records: dict[str, RunRecord] = {}
        self.header: dict[str, Any] = {}
        self._read: set[Path] = set()
        self._lock: IO[bytes] | None = None

    def check(self, overwrite: bool) -> None:
        """Refuse early what `claim` would refuse whatever the settings.

        Raises:
            UserError: not a folder, or a folder of something else.
        """
        if not parallel.is_first():  # which may be writing already
            return
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"cannot write to {self.path}: it is a file; give --output the name of a folder")
        known = ("sweep.json", "runs", ".lock")
        strange = [one for one in _listed(self.path) if one.name not in known and not is_left_over(one)]
        if strange:
            raise UserError(f"{self.path} holds something else ({strange[0].name}): give another --output")
        if not overwrite and _listed(self.path / "runs") and not (self.path / "sweep.json").is_file():
            raise UserError(f"{self.path} holds runs but no sweep.json: give another --output, or --overwrite")

    def claim(self, header: Mapping[str, Any], overwrite: bool, keys: Mapping[Place, str] | None = None) -> None:
        """Go on with the sweep of the same key and setting, or begin one.

        Args:
            header: what all runs share; `key` says whether a sweep that is there is of the same model and tasks,
                `setting` what else must be the same, but for `APART`.
            overwrite: remove what is there.
            keys: of the runs that are wanted, by their place in a table.

        Raises:
            UserError: another sweep is there, or runs that are not those wanted in their place; another process is at
                it, or the folder cannot be written.
        """
        if not parallel.is_first():  # the first process holds the folder for all
            self.header = dict(header)
            self.records = parallel.from_first(self.records)
            return
        self.check(overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "ab")  # noqa: SIM115  open as long as the sweep
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._let_go()
            raise UserError(f"another sweep is writing to {self.path}: wait for it, or give another --output") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path} ({error.strerror}): give another --output") from None
        if overwrite:
            shutil.rmtree(self.path / "runs", ignore_errors=True)
            (self.path / "sweep.json").unlink(missing_ok=True)
        self.header = dict(header)
        try:
            if (self.path / "sweep.json").is_file():
                self._check_shared(read_sweep(self.path / "sweep.json"))
            self._read_runs()
            self._check_places(keys or {})
        except UserError:
            self.close()
            raise
        self.write()
        parallel.from_first(self.records)

    def done(self, key: str) -> RunRecord | None:
        """The record of a run that need not be repeated."""
        record = self.records.get(key)
        return record if record is not None and record.error is None else None

    def file(self, record: RunRecord) -> Path:
        """Where a run's record lies; its name tells what it is, and the key keeps it apart from others."""
        return self.path / "runs" / f"{slug_of(record.name, record.bits, record.seed)}-{record.key[:8]}.json"

    def add(self, record: RunRecord, items: bytes | None) -> None:
        """Keep a run: on return it is on the disk, and the leaderboard with it."""
        write_run(self.file(record), record, items)
        self.records[record.key] = record
        self.write()

    def take_over(self, records: Sequence[RunRecord]) -> None:
        """Know of runs that other processes have kept."""
        self.records |= {record.key: record for record in records}
        self.write()

    def write(self) -> None:
        """Write the leaderboard, which is up to the first of several processes; it has what the others kept so far."""
        if not parallel.is_first():
            return
        self._read_runs()
        ordered = sorted(self.records.values(), key=order)
        write_json(self.path / "sweep.json", {"kind": KIND, **self.header, "runs": [one.record() for one in ordered]})

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            (self.path / ".lock").unlink(missing_ok=True)
            self._let_go()

    def _read_runs(self) -> None:
        for file in sorted((self.path / "runs").glob("*.json")):
            if file not in self._read:
                record = read_run(file)
                self.records.setdefault(record.key, record)
                self._read.add(file)

    def _check_shared(self, found: Mapping[str, Any]) -> None:
        """Refuse a sweep that shares something else."""
        if found.get("key") != self.header["key"]:
            raise UserError(
                f"{self.path} holds a sweep of another model or with other tasks: give another --output, or --overwrite"
            )
        kept, wanted = found.get("setting", {}), json.loads(json.dumps(self.header["setting"]))
        names = [name for name in wanted if name in kept and name not in APART and kept[name] != wanted[name]]
        if names:
            differ = ", ".join(f"{name} {_written(kept[name])} and not {_written(wanted[name])}" for name in names)
            raise UserError(
                f"{self.path} holds runs with {differ}: give the same to widen it, another --output, or --overwrite"
            )

    def _check_places(self, keys: Mapping[Place, str]) -> None:
        """Refuse to put a run beside one that tables would take for the same."""
        for record in self.records.values():
            if record.error is None and keys.get(record.place, record.key) != record.key:
                raise UserError(
                    f"{self.path} holds {record.name} at {record.bits} bits of another definition, checkpoint, batch "
                    f"size or calibration text of the same name: give another --output, or --overwrite"
                )

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def order(record: RunRecord) -> tuple[Any, ...]:
    """Full precision first, then wide before narrow, this project's own checkpoint last of a width."""
    return (
        record.name != FULL_PRECISION,
        -record.bits,
        record.name == SWITCHQ,
        record.name,
        record.calibration or "",
        record.seed,
    )


def slug_of(name: str, bits: int, seed: int = 0) -> str:
    """A name for files: `gptq-4`, with the seed where that is not 0."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{name}-{bits}{f'-seed{seed}' if seed else ''}").strip("-")


def read_sweep(path: Path) -> dict[str, Any]:
    """The contents of a sweep.json.

    Raises:
        UserError: missing, damaged, or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}; begin the sweep anew with --overwrite") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{path} is not a sweep of `switchq ptq`")
    if not isinstance(content.get("setting", {}), dict):
        raise UserError(f"{path} is damaged: 'setting' is not an object; begin the sweep anew with --overwrite")
    return content


def _written(value: object) -> str:
    """As one writes it on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
