"""How good a bitmap is on the search questions, evaluated question by question and never twice.

The questions have a fixed, seeded order. Looks are taken at the first 1/16, 1/8, 1/4, 1/2 of them and at all, as far as
the first holds enough, so that the questions of one look are among those of the next. Each (bitmap, question) is
evaluated once and kept in the journal; questions that are asked for together are put to the model together. What an
evaluation costs is counted in question evaluations: one question put to the model at one bitmap.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchq.bitmap import FULL, Bitmap
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.metric import Array, Metric

SMALLEST_LOOK = 12
"""The least number of questions that a look may rest on."""

LOOKS = (16, 8, 4, 2, 1)
"""What part of the questions each look holds, as denominators."""


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
    tokens: float
    seconds: float


Measure = Callable[[Bitmap, Sequence[int]], Measurement]
"""Measure a bitmap on the questions at some places, in the order given."""


@dataclass(frozen=True)
class Scored:
    """A bitmap on some of the questions.

    Attributes:
        bitmap: the bitmap.
        rows: the places of the questions.
        figures: metric -> its figure on them.
        tokens_per_s: over them.
        seconds: that evaluating them took.
    """

    bitmap: Bitmap
    rows: tuple[int, ...]
    figures: Mapping[str, float]
    tokens_per_s: float
    seconds: float

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self.rows)


class _Known:
    """What is known of one bitmap: each array holds one number per question of the search.

    `asked` are the questions that have been evaluated, in this run or one that was resumed; `used` those that this run
    has come to. Whatever decides how the search goes on looks at the latter only.
    """

    def __init__(self, questions: int) -> None:
        self.asked, self.used = np.zeros(questions, dtype=bool), np.zeros(questions, dtype=bool)
        self.values: dict[str, Array] = defaultdict(lambda: np.zeros(questions))
        self.weights, self.tokens, self.seconds = np.zeros(questions), np.zeros(questions), np.zeros(questions)

    def keep(self, rows: Sequence[int], found: Measurement) -> None:
        """Take in a measurement of the questions at `rows`; it shares out tokens and seconds evenly."""
        chosen = list(rows)
        self.asked[chosen] = True
        for name, values in found.values.items():
            self.values[name][chosen] = values
        self.weights[chosen] = found.weights
        self.tokens[chosen], self.seconds[chosen] = found.tokens / len(chosen), found.seconds / len(chosen)


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
        journal: SearchJournal | None = None,
        advance: Callable[[int], object] = lambda done: None,
    ) -> None:
        self.measure, self.metric, self.budget = measure, metric, budget
        self.layers, self.questions = layers, questions
        self.journal = journal or SearchJournal(None, {"key": ""})
        self.advance = advance
        self.evaluated: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.phase = "references"
        self._known: dict[Bitmap, _Known] = defaultdict(lambda: _Known(questions))
        for entry in self.journal.entries["eval"]:
            self._known[Bitmap(entry["bits"])].keep(entry["rows"], _measurement(entry))

    @property
    def all(self) -> range:
        """The places of all questions."""
        return range(self.questions)

    @cached_property
    def looks(self) -> tuple[range, ...]:
        """The growing sets of questions after which a decision may be taken; the last holds all."""
        return tuple(range(size) for size in look_sizes(self.questions))

    @cached_property
    def full(self) -> _Known:
        """The full-precision model on all questions."""
        return self._ask(Bitmap.stripe([FULL], self.layers), self.all)

    @cached_property
    def full_figure(self) -> float:
        """Its figure."""
        return self.metric.figure(self.full.values[self.metric.name], self.full.weights)

    def score(self, bitmap: Bitmap, rows: Sequence[int] | None = None) -> Scored:
        """The figures of `bitmap` on the questions at `rows`; on all by default."""
        chosen = list(self.all if rows is None else rows)
        known = self._ask(bitmap, chosen)
        figures = {
            name: Metric(name).figure(values[chosen], known.weights[chosen])  # type: ignore[arg-type]
            for name, values in known.values.items()
        }
        tokens, seconds = float(known.tokens[chosen].sum()), float(known.seconds[chosen].sum())
        return Scored(bitmap, tuple(chosen), figures, tokens / seconds if seconds else 0.0, seconds)

    def loss(self, bitmap: Bitmap, rows: Sequence[int] | None = None) -> float:
        """The main figure at `rows`, turned so that lower is better."""
        return self.metric.loss(self.score(bitmap, rows).figures[self.metric.name])

    def known(self, bitmap: Bitmap) -> Array:
        """The main metric's value on each question, NaN where this run has not asked it."""
        if bitmap not in self._known:
            return np.full(self.questions, np.nan)
        one = self._known[bitmap]
        return np.where(one.used, one.values[self.metric.name], np.nan)

    def margins(self, bitmap: Bitmap, rows: Sequence[int] | None = None) -> Array:
        """One margin per question at `rows` (see `Metric.margins`)."""
        chosen = list(self.all if rows is None else rows)
        return self._margins(self._ask(bitmap, chosen), chosen)

    def missing(self, bitmap: Bitmap) -> int:
        """How many questions `bitmap` has not been asked."""
        return self.questions - int(self._known[bitmap].used.sum()) if bitmap in self._known else self.questions

    def used(self) -> tuple[NDArray[np.int64], Array]:
        """All that this run has asked: bitmaps (B, layers), and margins (B, questions), NaN where it has not."""
        known = {bitmap: one for bitmap, one in self._known.items() if one.used.any()}
        margins_BQ = np.full((len(known), self.questions), np.nan)
        for row_Q, one in zip(margins_BQ, known.values()):
            row_Q[one.used] = self._margins(one, np.flatnonzero(one.used))
        return np.array(list(known), dtype=np.int64).reshape(len(known), self.layers), margins_BQ

    def extremes(self) -> tuple[float, float]:
        """The lowest and highest margin to reckon with."""
        return self.metric.extremes(self.full.values[self.metric.name], self.full.weights, self.budget)

    def worst_margins(self) -> Array:
        """The least that each may be."""
        return self.metric.worst_margins(self.full.values[self.metric.name], self.budget)

    def within(self, bitmap: Bitmap) -> bool:
        """Whether the drop on all questions stays within the budget."""
        return keeps(self.margins(bitmap))

    def _ask(self, bitmap: Bitmap, rows: Sequence[int]) -> _Known:
        """Evaluate `bitmap` on those of `rows` that are not known, and count what is used for the first time."""
        known = self._known[bitmap]
        missing = [row for row in rows if not known.asked[row]]
        if missing:
            found = self.measure(bitmap, missing)
            self.journal.add("eval", _entry(bitmap, missing, found))
            known.keep(missing, found)
        fresh = [row for row in rows if not known.used[row]]
        if fresh:
            known.used[fresh] = True
            self.evaluated[self.phase] += len(fresh)
            self.seconds[self.phase] += float(known.seconds[fresh].sum())
            self.advance(len(fresh))
        return known

    def _margins(self, known: _Known, rows: Sequence[int] | NDArray[np.intp]) -> Array:
        name, chosen = self.metric.name, np.asarray(rows, dtype=np.intp)
        return self.metric.margins(
            known.values[name][chosen], self.full.values[name][chosen], known.weights[chosen], self.budget
        )


def look_sizes(questions: int) -> tuple[int, ...]:
    """How many of `questions` questions each look holds.

    >>> look_sizes(200), look_sizes(50), look_sizes(20)
    ((12, 25, 50, 100, 200), (12, 25, 50), (20,))
    """
    return tuple(questions // part for part in LOOKS if part == 1 or questions // part >= SMALLEST_LOOK)


def keeps(margins: Array) -> bool:
    """Whether margins sum to no less than zero, up to rounding errors of the sum."""
    return float(margins.sum()) >= -1e-9 * max(1.0, float(np.abs(margins).sum()))


def _entry(bitmap: Bitmap, rows: Sequence[int], found: Measurement) -> dict[str, Any]:
    return {
        "bits": list(bitmap),
        "rows": list(rows),
        "values": {name: list(row) for name, row in found.values.items()},
        "weights": list(found.weights),
        "tokens": found.tokens,
        "seconds": found.seconds,
    }


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    return Measurement(entry["values"], entry["weights"], entry["tokens"], entry["seconds"])
