"""Percentile bootstrap intervals over questions (Efron, 1979), by `scipy.stats.bootstrap`."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from switchq.evaluation.tasks import Items

Array = NDArray[np.float64]

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

    return _percentiles((sample, sizes), ratio, confidence, seed, resamples)


def difference_interval(
    values: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean difference `values - reference`, paired by question."""
    return interval(np.subtract(values, reference).tolist(), confidence=confidence, seed=seed)


def paired_difference(
    one: Items, other: Items, *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """The difference of two figures `one - other` over the same examples, and its interval: a resample draws examples
    for both.

    Args:
        one: the values of the first model.
        other: those of the second, of the same examples in the same order.
        confidence: of the interval.
        seed: of the resampling.
        resamples: how many.

    Returns:
        Difference, low, high; nan as the ends where a value is not finite or a resample may have no weight.

    Raises:
        ValueError: other examples: another number of them, or another scale.
    """
    if (len(one.values), one.scale) != (len(other.values), other.scale) or not one.values:
        raise ValueError("the two were not scored on the same examples")
    columns = [
        np.asarray(column or [1.0] * len(one.values), dtype=np.float64)
        for items in (one, other)
        for column in (items.values, items.weights)
    ]
    found = one.figure() - other.figure()
    if not all(np.isfinite(column).all() for column in columns) or not np.isfinite(found):
        return found, float("nan"), float("nan")

    def difference(first: Array, weights: Array, second: Array, others: Array, axis: int = -1) -> Array:
        means = [first.sum(axis) / weights.sum(axis), second.sum(axis) / others.sum(axis)]
        left, right = np.exp(means) if one.scale == "exp" else means
        drawn: Array = left - right
        return drawn

    if len(one.values) == 1 or ((columns[0] == columns[2]).all() and (columns[1] == columns[3]).all()):
        return found, found, found  # nothing varies: an interval is a point, of which scipy warns
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # a resample without weight gives nan
        return found, *_percentiles(columns, difference, confidence, seed, resamples)


def mean_gap(
    pairs: Sequence[tuple[Items, Items]], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """The mean of `one / other - 1` over several pairs of figures, all over the same examples, and its interval: a
    resample draws examples for all of them.

    Args:
        pairs: of perplexities, such as one for each calibration seed.
        confidence: of the interval.
        seed: of the resampling.
        resamples: how many.

    Returns:
        Gap, low, high; nan as the ends where a value is not finite.

    Raises:
        ValueError: no pairs, or of other examples.
    """
    items = [one for pair in pairs for one in pair]
    if not items or len({(len(one.values), one.scale) for one in items}) > 1 or items[0].scale != "exp":
        raise ValueError("the figures are no perplexities over the same examples")
    columns = [
        np.asarray(column or [1.0] * len(one.values), dtype=np.float64)
        for one in items
        for column in (one.values, one.weights)
    ]

    def gap(*drawn: Array, axis: int = -1) -> Array:
        means = [value.sum(axis) / weight.sum(axis) for value, weight in zip(drawn[::2], drawn[1::2])]
        mean: Array = np.mean([np.expm1(one - other) for one, other in zip(means[::2], means[1::2])], 0)
        return mean

    with np.errstate(over="ignore", invalid="ignore"):
        found = float(gap(*columns))
    if not np.isfinite(found):
        return found, float("nan"), float("nan")
    same = all(
        (columns[at] == columns[at + 2]).all() and (columns[at + 1] == columns[at + 3]).all()
        for at in range(0, len(columns), 4)
    )
    if same or len(columns[0]) == 1:
        return found, found, found  # nothing varies: an interval is a point, of which scipy warns
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return found, *_percentiles(columns, gap, confidence, seed, resamples)


def _percentiles(
    columns: Sequence[Array], statistic: Callable[..., Array], confidence: float, seed: int, resamples: int
) -> tuple[float, float]:
    found = stats.bootstrap(
        tuple(columns),
        statistic,
        paired=True,
        n_resamples=resamples,
        batch=256,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
