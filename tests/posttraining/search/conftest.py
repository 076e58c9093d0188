"""Searches without a model: every question has a strength, every layer does damage, and damage adds up."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from workshop import make_workshop, workshop

from switchq.bitmap import FULL, Bitmap
from switchq.errors import UserError
from switchq.posttraining.search import Measurement, Metric, Objective, Space, Study
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.trials import Trials

__all__ = ["make_workshop", "workshop"]

Array = NDArray[np.float64]


def make_space(layers: int, widths: tuple[int, ...] = (8, 4, 2), seed: int | None = None) -> Space:
    """Layers of equal size, or of random sizes."""
    sizes = np.ones(layers) if seed is None else np.random.default_rng(seed).integers(1, 5, layers).astype(float)
    bits_LW = np.outer(sizes / sizes.sum(), np.array([FULL, *widths], dtype=float))
    names = tuple(f"h.{layer // 4}.{'abcd'[layer % 4]}" for layer in range(layers))
    units = tuple((layer,) for layer in range(layers))
    return Space(names, widths, units, bits_LW, bits_LW / 8 - 2 * bits_LW[:, :1] / 16, 3.0, (1,) * layers)


class Threshold:
    """A question is answered as long as the damage of all layers stays below its strength: a monotone metric.

    Attributes:
        damage_LW: damage of layer L at choice W; 0 at full precision, growing as the width shrinks.
        strength_Q: of each question.
        calls: (bitmap, places of the questions) of every measurement.
    """

    def __init__(self, space: Space, questions: int, seed: int, spread: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        steps = rng.exponential(size=(len(space.names), len(space.widths))) * rng.exponential(
            size=(len(space.names), 1)
        )
        steps *= np.array([10.0 ** (i - len(space.widths) + 1) for i in range(len(space.widths))])
        self.damage_LW = np.concatenate([np.zeros((len(space.names), 1)), steps.cumsum(1)], axis=1)
        self.strength_Q = rng.exponential(size=questions) * self.damage_LW[:, -1].sum() * spread
        self.space = space
        self.calls: list[tuple[Bitmap, tuple[int, ...]]] = []

    def __call__(self, bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        self.calls.append((bitmap, tuple(rows)))
        choices = [self.space.choices.index(bits) for bits in bitmap]
        damage = self.damage_LW[np.arange(len(choices)), choices].sum()
        right = (self.strength_Q[list(rows)] >= damage).astype(float).tolist()
        return Measurement({"F1": right, "EM": right}, [1.0] * len(right), len(right), 0.5)


class Divergence(Threshold):
    """A question loses the damage of all layers, each weighted anew: a monotone metric without thresholds."""

    def __init__(self, space: Space, questions: int, seed: int) -> None:
        super().__init__(space, questions, seed)
        rng = np.random.default_rng([seed, 1])
        self.damage_LW /= self.damage_LW[:, -1].sum()
        self.weight_QL = rng.lognormal(sigma=0.7, size=(questions, len(space.names)))
        self.tokens_Q = rng.integers(1, 9, questions).astype(float)

    def __call__(self, bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        self.calls.append((bitmap, tuple(rows)))
        chosen, choices = list(rows), [self.space.choices.index(bits) for bits in bitmap]
        lost_Q = self.weight_QL[chosen] @ self.damage_LW[np.arange(len(choices)), choices] * self.tokens_Q[chosen]
        return Measurement({"KL": lost_Q.tolist()}, self.tokens_Q[chosen].tolist(), len(chosen), 0.5)


class Crossing(Threshold):
    """A question weighs each layer's damage by itself, often with the other sign: narrowing helps some, hurts more."""

    def __init__(self, space: Space, questions: int, seed: int) -> None:
        super().__init__(space, questions, seed)
        rng = np.random.default_rng([seed, 2])
        layers = len(space.names)
        self.damage_LW /= self.damage_LW[:, -1].sum()
        self.weight_QL = 1 + np.sqrt(layers) * rng.normal(size=(questions, layers))
        self.strength_Q = rng.normal(2, 2, questions)

    def __call__(self, bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        self.calls.append((bitmap, tuple(rows)))
        chosen, choices = list(rows), [self.space.choices.index(bits) for bits in bitmap]
        damage_Q = self.weight_QL[chosen] @ self.damage_LW[np.arange(len(choices)), choices]
        right = (self.strength_Q[chosen] > damage_Q).astype(float).tolist()
        return Measurement({"F1": right, "EM": right}, [1.0] * len(right), len(right), 0.5)


def make_study(
    space: Space,
    measure: Callable[[Bitmap, Sequence[int]], Measurement],
    questions: int,
    budget: float = 0.3,
    metric: str = "F1",
    path: Path | None = None,
    key: str = "",
    **options: Any,
) -> Study:
    """A study over any measure."""
    journal = SearchJournal(None if path is None else path.with_suffix(".journal.jsonl"), {"key": key})
    objective = Objective(measure, len(space.names), questions, Metric(metric), budget, journal)  # type: ignore[arg-type]
    try:
        return Study(space, objective, Trials(path, journal), **options)
    except UserError:
        journal.close()
        raise


@pytest.fixture
def space() -> Space:
    return make_space(12)
