"""Percentile bootstrap intervals over questions (Efron, 1979), by `scipy.stats.bootstrap`."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from switchq.posttraining.search.metric import Array

RESAMPLES = 9999


def interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Interval of the mean of `values`, one per question, in their unit.

    Args:
        values: one per question.
        weights: with them, of `sum(values) / sum(weights)`; a question is drawn with its weight.
        confidence: of the interval.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: no questions.
    """
    sample = np.asarray(values, dtype=np.float64)
    sizes = np.ones_like(sample) if weights is None else np.asarray(weights, dtype=np.float64)
    if not sample.size:
        raise ValueError("an interval needs at least one question")
    mean = float(sample.sum() / sizes.sum())
    if not np.isfinite(mean) or np.all(sample * sizes[0] == sample[0] * sizes):
        return mean, mean  # nothing varies: an interval is a point, of which scipy warns

    def ratio(drawn: Array, drawn_sizes: Array, axis: int = -1) -> Array:
        quotient: Array = drawn.sum(axis) / drawn_sizes.sum(axis)
        return quotient

    found = stats.bootstrap(
        (sample, sizes),
        ratio,
        paired=True,
        n_resamples=resamples,
        batch=256,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def difference_interval(
    values: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean difference `values - reference`, paired by question."""
    return interval(np.subtract(values, reference).tolist(), confidence=confidence, seed=seed)
