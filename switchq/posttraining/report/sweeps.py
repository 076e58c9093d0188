"""A sweep of post-training quantisation, as a report reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.posttraining.ptq.results import RunRecord
from switchq.posttraining.report.reading import clean


@dataclass(frozen=True)
class Sweep:
    """A sweep of post-training quantisation: its runs, what they share, and what was scored."""

    name: str
    path: Path
    base: str
    setting: Mapping[str, Any]
    tasks: Mapping[str, Any]
    runs: tuple[RunRecord, ...]


def sweep_of(path: Path, content: Mapping[str, Any]) -> Sweep:
    """The sweep in a sweep.json.

    Raises:
        UserError: it is damaged or empty.
    """
    runs, setting, tasks = content.get("runs"), content.get("setting") or {}, content.get("tasks")
    if not isinstance(runs, list) or not isinstance(setting, Mapping) or not isinstance(tasks, Mapping):
        raise UserError(f"the sweep {path} is damaged: runs, setting or tasks are missing or of the wrong type")
    for described in tasks.values():
        metrics = described.get("metrics") if isinstance(described, Mapping) else None
        if not isinstance(metrics, list) or not all({"name", "better", "form"} <= set(one) for one in metrics):
            raise UserError(f"the sweep {path} is damaged: a task does not say what its metrics are")
    if not runs:
        raise UserError(f"the sweep {path} holds no runs yet")
    records = tuple(RunRecord.from_record(run, f"run {index} of {path}") for index, run in enumerate(runs, 1))
    return Sweep(clean(path.resolve().parent.name), path, str(content.get("base")), setting, tasks, records)
