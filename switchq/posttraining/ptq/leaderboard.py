"""A sweep as rows for people: grouped by width, seeds averaged, the best of each column of a width marked."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from switchq.posttraining.ptq.folder import order
from switchq.posttraining.ptq.results import RunRecord


@dataclass(frozen=True)
class Entry:
    """A method at one width on one calibration set, over its seeds.

    Attributes:
        runs: those that have scores, by seed.
        failed: those that have none.
    """

    name: str
    bits: int
    calibration: str | None
    runs: tuple[RunRecord, ...]
    failed: tuple[RunRecord, ...] = ()

    def figures(self, task: str, metric: str) -> list[float]:
        """The figure of every seed; inf where one is not finite, empty where the runs lack it."""
        found = [run.scores[task][metric] for run in self.runs if metric in run.scores.get(task, {})]
        return [math.inf if one is None else one for one in found]

    def mean(self, task: str, metric: str) -> float | None:
        """The mean over seeds."""
        found = self.figures(task, metric)
        return statistics.fmean(found) if found else None

    def spread(self, task: str, metric: str) -> float | None:
        """The standard deviation over two or more seeds."""
        found = self.figures(task, metric)
        return statistics.stdev(found) if len(found) > 1 and all(map(math.isfinite, found)) else None

    def cost(self, name: str) -> float | None:
        """The mean over seeds of a field of the record, such as `size_mb` or `quantised_seconds`."""
        found = [value for run in self.runs for value in [getattr(run, name)] if value is not None]
        return statistics.fmean(found) if found else None


@dataclass(frozen=True)
class Figure:
    """A column: a metric of a task."""

    task: str
    metric: str
    better: str
    form: str


def entries(records: Sequence[RunRecord]) -> list[Entry]:
    """One entry per name, width and calibration set, in the order of the table."""
    groups: dict[tuple[str, int, str | None], list[RunRecord]] = {}
    for record in sorted(records, key=order):
        groups.setdefault((record.name, record.bits, record.calibration), []).append(record)
    return [
        Entry(
            name,
            bits,
            calibration,
            tuple(run for run in runs if run.error is None),
            tuple(run for run in runs if run.error is not None),
        )
        for (name, bits, calibration), runs in groups.items()
    ]


def figures(tasks: Mapping[str, Any], headlines: bool = False) -> list[Figure]:
    """The columns of some tasks, as `Suite.describe` gives them; with `headlines` the first of each task only."""
    found = []
    for task, described in tasks.items():
        metrics = described.get("metrics") or ()
        for metric in metrics[:1] if headlines else metrics:
            found.append(Figure(task, str(metric["name"]), str(metric["better"]), str(metric["form"])))
    return found


def best(rows: Sequence[Entry], figure: Figure) -> float | None:
    """The best mean of a column; None where there is nothing to choose between."""
    known = [value for row in rows for value in [row.mean(figure.task, figure.metric)] if value is not None]
    known = [value for value in known if math.isfinite(value)]
    if len(known) < 2 or min(known) == max(known):
        return None
    return max(known) if figure.better == "higher" else min(known)


def by_width(rows: Sequence[Entry]) -> Iterator[tuple[int, list[Entry]]]:
    """Rows of one width together, in their order."""
    for bits in dict.fromkeys(row.bits for row in rows):
        yield bits, [row for row in rows if row.bits == bits]


def cross_table(rows: Sequence[Entry], figure: Figure) -> dict[tuple[str, int], dict[str, float | None]]:
    """(method, bits) -> calibration set -> figure, for methods that were calibrated on two sets or more."""
    found: dict[tuple[str, int], dict[str, float | None]] = {}
    for row in rows:
        if row.calibration is not None and row.runs:
            found.setdefault((row.name, row.bits), {})[row.calibration] = row.mean(figure.task, figure.metric)
    return {key: value for key, value in found.items() if len(value) > 1}
