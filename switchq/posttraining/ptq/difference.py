"""Two runs, example by example: the difference of their figures with a paired bootstrap interval."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from switchq.errors import UserError
from switchq.evaluation.tasks import Items, same_examples
from switchq.posttraining.bootstrap import paired_difference
from switchq.posttraining.ptq.results import RunRecord, read_run, unpack_items
from switchq.posttraining.ptq.saving import METADATA, VALUES, read_saved


@dataclass(frozen=True)
class Scored:
    """A run with its values per example.

    Attributes:
        path: where it was read from.
        record: the run.
        items: task -> metric -> values.
    """

    path: Path
    record: RunRecord
    items: dict[str, dict[str, Items]]


@dataclass(frozen=True)
class Difference:
    """A figure of two runs, `second - first`, and the ends of the interval of that; nan where there is none.

    Attributes:
        examples: windows or questions that both were scored on.
        better: which end of the metric is good, `higher` or `lower`.
    """

    task: str
    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    examples: int
    better: str

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval leaves out 0, else `unclear`."""
        if not (self.low > 0 or self.high < 0):
            return "unclear"
        return "better" if (self.low > 0) == (self.better == "higher") else "worse"


def read_scored(path: Path) -> Scored:
    """A run from its JSON file, or from the folder of a saved model.

    Raises:
        UserError: missing, damaged, a failed run, or something else.
    """
    if path.is_dir() and (path / METADATA).is_file():
        record, values = read_saved(path).record, path / VALUES
    elif path.is_dir():
        raise UserError(f"{path} is no saved model: name one of the runs in it, such as {path / 'runs'}/NAME.json")
    else:
        record, values = read_run(path), path.with_suffix(".npz")
    if record.error is not None:
        raise UserError(f"{path} is a run that failed ({record.error}): there is nothing to compare")
    return Scored(path, record, unpack_items(values, record.items_sha256))


def compare(first: Scored, second: Scored, *, seed: int = 0, confidence: float = 0.95) -> list[Difference]:
    """The differences of all figures that both have over the same examples.

    Args:
        first: what to compare with.
        second: what is compared.
        seed: of the resampling.
        confidence: of the intervals.

    Raises:
        UserError: they share no task that was scored on the same examples.
    """
    found = list(_differences(first, second, seed, confidence))
    if not found:
        raise UserError(f"{first.path} and {second.path} share no task that was scored on the same examples")
    return found


def _differences(first: Scored, second: Scored, seed: int, confidence: float) -> Iterator[Difference]:
    for task, described in second.record.tasks.items():
        if not same_examples(described, first.record.tasks.get(task, {})):
            continue
        for metric in described.get("metrics", ()):
            name = metric["name"]
            one, other = first.items.get(task, {}).get(name), second.items.get(task, {}).get(name)
            if one is None or other is None:
                continue
            difference, low, high = paired_difference(other, one, seed=seed, confidence=confidence)
            yield Difference(
                task,
                name,
                one.figure(),
                other.figure(),
                difference,
                low,
                high,
                len(one.values),
                metric["better"],
            )
