"""How good a bitmap is on the search questions, evaluated in stages and never twice.

The questions have a fixed, seeded order. Stage boundaries (25, 50, 100, 200 of 200, say) cut it into nested prefixes; a
stage is always evaluated as a whole, in the same batches, so that a question's value does not depend on who asked for
it and when. Each (bitmap, stage) is evaluated once and kept in the journal. What an evaluation costs is counted in
question evaluations: one question put to the model at one bitmap.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from switchq.bitmap import FULL, Bitmap
from switchq.posttraining.search.journal import Journal
from switchq.posttraining.search.metric import Array, Metric

FIRST_STAGE = 16
"""The least number of questions that a decision may rest on."""


@dataclass(frozen=True)
class Measurement:
    """A bitmap on some questions, in their order.

    Attributes:
        values: metric -> one value per question, as `Metric` explains them.
        weights: one weight per question.
        tokens: generated tokens, or answer tokens read.
        seconds: that this took.
    """

    values: Mapping[str, Sequence[float]]
    weights: Sequence[float]
    tokens: int
    seconds: float


Measure = Callable[[Bitmap, int, int], Measurement]
"""Measure a bitmap on the questions from one place (inclusive) to another (exclusive)."""


@dataclass(frozen=True)
class Scored:
    """A bitmap on a prefix of the questions.

    Attributes:
        bitmap: the bitmap.
        questions: length of the prefix.
        complete: whether that is all of them.
        figures: metric -> its figure on the prefix.
        tokens_per_s: over the prefix.
        seconds: evaluating all of it took.
    """

    bitmap: Bitmap
    questions: int
    complete: bool
    figures: Mapping[str, float]
    tokens_per_s: float
    seconds: float


class Objective:
    """The metric as a function of the bitmap.

    Args:
        measure: evaluates, and decides which metrics there are beside the main one (F1 and EM come together).
        layers: length of a bitmap.
        questions: how many there are.
        metric: the main one.
        budget: the relative drop of it that is allowed.
        journal: where evaluations are kept; by default in memory.
        advance: called with the number of questions after each evaluation.

    Attributes:
        evaluated: question evaluations by phase; those of an earlier run that was resumed count too.
        seconds: that they took, by phase.
        phase: the name to count under.
    """

    def __init__(
        self,
        measure: Measure,
        layers: int,
        questions: int,
        metric: Metric,
        budget: float,
        journal: Journal | None = None,
        advance: Callable[[int], object] = lambda done: None,
    ) -> None:
        self.measure, self.metric, self.budget = measure, metric, budget
        self.layers, self.questions = layers, questions
        self.boundaries = stages(questions)
        self.journal = journal or Journal(None, {"key": ""})
        self.advance = advance
        self.evaluated: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.phase = "references"
        self._known = {(tuple(e["bits"]), e["stage"]): _measurement(e) for e in self.journal.entries["eval"]}
        self._used: set[tuple[tuple[int, ...], int]] = set()

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.boundaries)

    @cached_property
    def full(self) -> Measurement:
        """The full-precision model on all questions."""
        return self.at(Bitmap.stripe([FULL], self.layers), self.stages)

    @cached_property
    def full_figure(self) -> float:
        """Its figure."""
        return self.metric.figure(*_arrays(self.full, self.metric))

    def at(self, bitmap: Bitmap, stage: int) -> Measurement:
        """Measure `bitmap` on the questions of the first `stage` stages."""
        parts = [self._stage(bitmap, one) for one in range(stage)]
        return Measurement(
            {name: [v for part in parts for v in part.values[name]] for name in parts[0].values},
            [weight for part in parts for weight in part.weights],
            sum(part.tokens for part in parts),
            sum(part.seconds for part in parts),
        )

    def score(self, bitmap: Bitmap, stage: int | None = None) -> Scored:
        """The figures of `bitmap` on the first `stage` stages; on all questions by default."""
        stage = self.stages if stage is None else stage
        found = self.at(bitmap, stage)
        figures = {name: Metric(name).figure(*_arrays(found, Metric(name))) for name in found.values}  # type: ignore[arg-type]
        speed = found.tokens / found.seconds if found.seconds else 0.0
        whole = stage == self.stages
        return Scored(bitmap, self.boundaries[stage - 1], whole, figures, speed, found.seconds)

    def loss(self, bitmap: Bitmap, stage: int | None = None) -> float:
        """The main figure on the first `stage` stages, turned so that lower is better."""
        found = self.at(bitmap, self.stages if stage is None else stage)
        return self.metric.loss(self.metric.figure(*_arrays(found, self.metric)))

    def margins(self, bitmap: Bitmap, stage: int) -> Array:
        """One margin per question of the first `stage` stages (see `Metric.margins`)."""
        values, weights = _arrays(self.at(bitmap, stage), self.metric)
        full, _ = _arrays(self.full, self.metric)
        return self.metric.margins(values, full[: len(values)], weights, self.budget)

    def extremes(self) -> tuple[float, float]:
        """The lowest and highest margin to reckon with."""
        return self.metric.extremes(*_arrays(self.full, self.metric), self.budget)

    def within(self, bitmap: Bitmap) -> bool:
        """Whether the drop on all questions stays within the budget."""
        return keeps(self.margins(bitmap, self.stages))

    def _stage(self, bitmap: Bitmap, stage: int) -> Measurement:
        begin, end = (0, *self.boundaries)[stage : stage + 2]
        key = tuple(bitmap), stage
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self.measure(bitmap, begin, end)
            self.journal.add("eval", _entry(bitmap, stage, found))
        if key not in self._used:
            self._used.add(key)
            self.evaluated[self.phase] += end - begin
            self.seconds[self.phase] += found.seconds
            self.advance(end - begin)
        return found


def stages(questions: int) -> tuple[int, ...]:
    """Ends of the nested prefixes of `questions` questions: halves of halves, down to about 16.

    >>> stages(200), stages(20)
    ((25, 50, 100, 200), (20,))
    """
    ends = [questions]
    while ends[0] // 2 >= FIRST_STAGE:
        ends.insert(0, ends[0] // 2)
    return tuple(ends)


def keeps(margins: Array) -> bool:
    """Whether margins sum to no less than zero, up to rounding errors of the sum."""
    return float(margins.sum()) >= -1e-9 * max(1.0, float(np.abs(margins).sum()))


def _arrays(found: Measurement, metric: Metric) -> tuple[Array, Array]:
    return np.asarray(found.values[metric.name], dtype=np.float64), np.asarray(found.weights, dtype=np.float64)


def _entry(bitmap: Bitmap, stage: int, found: Measurement) -> dict[str, Any]:
    values = {name: list(row) for name, row in found.values.items()}
    return {
        "bits": list(bitmap),
        "stage": stage,
        "values": values,
        "weights": list(found.weights),
        "tokens": found.tokens,
        "seconds": found.seconds,
    }


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    return Measurement(entry["values"], entry["weights"], entry["tokens"], entry["seconds"])
