"""Sweeps of post-training quantisation, as a report reads them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.posttraining.ptq.folder import APART
from switchq.posttraining.ptq.results import RunRecord
from switchq.posttraining.report.reading import clean


@dataclass(frozen=True)
class Sweep:
    """A sweep of post-training quantisation, or several of one board.

    Attributes:
        name: of its folder, or of the first one's.
        paths: its files.
        base: the model.
        key: says that sweeps are of the same model, tasks and kind of device; empty where it is not known.
        setting: what the runs share.
        tasks: what was scored.
        runs: methods at widths.
    """

    name: str
    paths: tuple[Path, ...]
    base: str
    key: str
    setting: Mapping[str, Any]
    tasks: Mapping[str, Any]
    runs: tuple[RunRecord, ...]

    @property
    def board(self) -> str:
        """The same for sweeps whose runs can be compared."""
        shared = {name: value for name, value in self.setting.items() if name not in APART}
        return json.dumps([self.key or str(self.paths[0]), shared], sort_keys=True, default=str)

    def with_runs_of(self, other: "Sweep") -> "Sweep":
        """Both on one board; a run that both have stands there once, the one that did not fail."""
        found: dict[str | int, RunRecord] = {}
        for run in (*self.runs, *other.runs):
            place = run.key or len(found)
            if place not in found or found[place].error is not None:
                found[place] = run
        lists = {name: list(dict.fromkeys([*self._listed(name), *other._listed(name)])) for name in APART}
        return replace(
            self,
            paths=self.paths + other.paths,
            setting={**self.setting, **{name: value for name, value in lists.items() if value}},
            runs=tuple(found.values()),
        )

    def _listed(self, name: str) -> list[str | int]:
        return self.setting.get(name) or []


def joined(sweeps: Iterable[Sweep]) -> list[Sweep]:
    """One for each board, in the order in which they first come."""
    boards: dict[str, Sweep] = {}
    for one in sweeps:
        boards[one.board] = boards[one.board].with_runs_of(one) if one.board in boards else one
    return list(boards.values())


def sweep_of(path: Path, content: Mapping[str, Any]) -> Sweep:
    """The sweep in a sweep.json.

    Raises:
        UserError: it is damaged or empty.
    """
    runs, setting, tasks = content.get("runs"), content.get("setting") or {}, content.get("tasks")
    if not isinstance(runs, list) or not isinstance(setting, Mapping) or not isinstance(tasks, Mapping):
        raise UserError(f"the sweep {path} is damaged: runs, setting or tasks are missing or of the wrong type")
    for found in (setting.get(name) or [] for name in APART):
        if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
            raise UserError(f"the sweep {path} is damaged: {', '.join(APART)} of its setting are not all lists")
    for described in tasks.values():
        metrics = described.get("metrics") if isinstance(described, Mapping) else None
        if not isinstance(metrics, list) or not all({"name", "better", "form"} <= set(one) for one in metrics):
            raise UserError(f"the sweep {path} is damaged: a task does not say what its metrics are")
    if not runs:
        raise UserError(f"the sweep {path} holds no runs yet")
    records = tuple(RunRecord.from_record(run, f"run {index} of {path}") for index, run in enumerate(runs, 1))
    name, key = clean(path.resolve().parent.name), str(content.get("key") or "")
    return Sweep(name, (path,), str(content.get("base")), key, setting, tasks, records)
