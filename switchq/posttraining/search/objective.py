"""How good a bitmap is on the search questions, evaluated in blocks and never twice.

The questions have a fixed, seeded order, cut into up to 16 blocks of equal size. Looks are taken after 1, 2, 4, 8 and
16 blocks, so that the questions of one look are among those of the next. Each (bitmap, block) is evaluated once and
kept in the journal; blocks that are asked for together are put to the model together. What an evaluation costs is
counted in question evaluations: one question put to the model at one bitmap.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchq.bitmap import FULL, Bitmap
from switchq.posttraining.search.journal import Journal
from switchq.posttraining.search.metric import Array, Metric

SMALLEST_BLOCK = 12
"""The least number of questions that a decision may rest on."""

MOST_BLOCKS = 16


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


Measure = Callable[[Bitmap, int, int], Measurement]
"""Measure a bitmap on the questions from one place (inclusive) to another (exclusive)."""


@dataclass(frozen=True)
class Scored:
    """A bitmap on some blocks of the questions.

    Attributes:
        bitmap: the bitmap.
        blocks: which blocks.
        questions: how many questions they hold.
        figures: metric -> its figure on them.
        tokens_per_s: over them.
        seconds: that evaluating them took.
    """

    bitmap: Bitmap
    blocks: tuple[int, ...]
    questions: int
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
        self.bounds = block_bounds(questions)
        self.journal = journal or Journal(None, {"key": ""})
        self.advance = advance
        self.evaluated: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.phase = "references"
        self._known: dict[tuple[Bitmap, int], Measurement] = {}
        self._used: set[tuple[Bitmap, int]] = set()
        for entry in self.journal.entries["eval"]:
            self._keep(Bitmap(entry["bits"]), range(*entry["blocks"]), _measurement(entry))

    @property
    def blocks(self) -> range:
        """All blocks."""
        return range(len(self.bounds) - 1)

    @property
    def looks(self) -> tuple[range, ...]:
        """The growing sets of blocks after which a decision may be taken; the last holds all."""
        return tuple(range(count) for count in (1, 2, 4, 8, 16) if count < len(self.blocks)) + (self.blocks,)

    @cached_property
    def full(self) -> Measurement:
        """The full-precision model on all questions."""
        return self.over(Bitmap.stripe([FULL], self.layers), self.blocks)

    @cached_property
    def full_figure(self) -> float:
        """Its figure."""
        return self.metric.figure(*_arrays(self.full, self.metric))

    def over(self, bitmap: Bitmap, blocks: Sequence[int]) -> Measurement:
        """Measure `bitmap` on the questions of some blocks, in the order given."""
        self._evaluate(bitmap, [block for block in sorted(blocks) if (bitmap, block) not in self._known])
        for block in blocks:
            if (bitmap, block) not in self._used:
                self._used.add((bitmap, block))
                size = self.bounds[block + 1] - self.bounds[block]
                self.evaluated[self.phase] += size
                self.seconds[self.phase] += self._known[bitmap, block].seconds
                self.advance(size)
        parts = [self._known[bitmap, block] for block in blocks]
        return Measurement(
            {name: [v for part in parts for v in part.values[name]] for name in parts[0].values},
            [weight for part in parts for weight in part.weights],
            sum(part.tokens for part in parts),
            sum(part.seconds for part in parts),
        )

    def score(self, bitmap: Bitmap, blocks: Sequence[int] | None = None) -> Scored:
        """The figures of `bitmap` on some blocks; on all by default."""
        chosen = tuple(self.blocks if blocks is None else blocks)
        found = self.over(bitmap, chosen)
        figures = {name: Metric(name).figure(*_arrays(found, Metric(name))) for name in found.values}  # type: ignore[arg-type]
        speed = found.tokens / found.seconds if found.seconds else 0.0
        return Scored(bitmap, chosen, len(found.weights), figures, speed, found.seconds)

    def loss(self, bitmap: Bitmap, blocks: Sequence[int] | None = None) -> float:
        """The main figure on some blocks, turned so that lower is better."""
        return self.metric.loss(self.score(bitmap, blocks).figures[self.metric.name])

    def margins(self, bitmap: Bitmap, blocks: Sequence[int] | None = None) -> Array:
        """One margin per question of some blocks (see `Metric.margins`)."""
        chosen = self.blocks if blocks is None else blocks
        values, weights = _arrays(self.over(bitmap, chosen), self.metric)
        full, _ = _arrays(self.full, self.metric)
        return self.metric.margins(values, full[self.rows(chosen)], weights, self.budget)

    def rows(self, blocks: Sequence[int]) -> NDArray[np.intp]:
        """The places of the questions of some blocks."""
        return np.concatenate([np.arange(self.bounds[block], self.bounds[block + 1]) for block in blocks])

    def extremes(self) -> tuple[float, float]:
        """The lowest and highest margin to reckon with."""
        return self.metric.extremes(*_arrays(self.full, self.metric), self.budget)

    def within(self, bitmap: Bitmap) -> bool:
        """Whether the drop on all questions stays within the budget."""
        return keeps(self.margins(bitmap))

    def _evaluate(self, bitmap: Bitmap, missing: Sequence[int]) -> None:
        """Evaluate blocks, those that follow each other at once."""
        while missing:
            length = next((i for i, block in enumerate(missing) if block != missing[0] + i), len(missing))
            run, missing = range(missing[0], missing[0] + length), missing[length:]
            found = self.measure(bitmap, self.bounds[run.start], self.bounds[run.stop])
            self.journal.add("eval", _entry(bitmap, run, found))
            self._keep(bitmap, run, found)

    def _keep(self, bitmap: Bitmap, blocks: range, found: Measurement) -> None:
        """Share out a measurement of several blocks; tokens and seconds by number of questions."""
        start, whole = self.bounds[blocks.start], self.bounds[blocks.stop] - self.bounds[blocks.start]
        for block in blocks:
            begin, end = self.bounds[block] - start, self.bounds[block + 1] - start
            part = (end - begin) / whole
            values = {name: row[begin:end] for name, row in found.values.items()}
            self._known[bitmap, block] = Measurement(
                values, found.weights[begin:end], found.tokens * part, found.seconds * part
            )


def block_bounds(questions: int) -> tuple[int, ...]:
    """Where the blocks of `questions` questions begin, and where the last one ends.

    >>> block_bounds(50), block_bounds(20)
    ((0, 12, 25, 37, 50), (0, 20))
    """
    count = 1
    while count < MOST_BLOCKS and questions // (2 * count) >= SMALLEST_BLOCK:
        count *= 2
    return tuple(i * questions // count for i in range(count + 1))


def keeps(margins: Array) -> bool:
    """Whether margins sum to no less than zero, up to rounding errors of the sum."""
    return float(margins.sum()) >= -1e-9 * max(1.0, float(np.abs(margins).sum()))


def _arrays(found: Measurement, metric: Metric) -> tuple[Array, Array]:
    return np.asarray(found.values[metric.name], dtype=np.float64), np.asarray(found.weights, dtype=np.float64)


def _entry(bitmap: Bitmap, blocks: range, found: Measurement) -> dict[str, Any]:
    return {
        "bits": list(bitmap),
        "blocks": [blocks.start, blocks.stop],
        "values": {name: list(row) for name, row in found.values.items()},
        "weights": list(found.weights),
        "tokens": found.tokens,
        "seconds": found.seconds,
    }


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    return Measurement(entry["values"], entry["weights"], entry["tokens"], entry["seconds"])
