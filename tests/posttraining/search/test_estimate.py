"""The ratio estimate against sums that are known."""

import numpy as np
import pytest

from switchq.posttraining.search.estimate import estimated_sum


def test_all_asked_is_the_sum() -> None:
    margins_Q = np.random.default_rng(0).normal(size=20)
    total, error = estimated_sum(margins_Q, np.zeros(20), np.ones(20))
    assert total == pytest.approx(margins_Q.sum())
    assert error == 0


def test_the_error_is_as_large_as_it_says() -> None:
    """Squared errors in units of the estimated variance are 1 on average, if the variance goes with the distance."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(400):
        ceiling_Q = rng.uniform(0.5, 3, 100)
        floor_Q = ceiling_Q - rng.lognormal(sigma=0.7, size=100)
        spans_Q = ceiling_Q - floor_Q
        margins_Q = floor_Q + 0.6 * spans_Q + 0.2 * np.sqrt(spans_Q) * rng.normal(size=100)
        known_Q = np.where(np.arange(100) < 25, margins_Q, np.nan)
        total, error = estimated_sum(known_Q, floor_Q, ceiling_Q)
        ratios.append((total - margins_Q.sum()) ** 2 / error**2)
    assert np.mean(ratios) == pytest.approx(1, abs=0.3)


def test_bounds_the_wrong_way_round_make_it_unsure() -> None:
    margins_Q = np.array([0.5, 0.5, 0.4, 0.6, np.nan, np.nan])
    floor_Q, ceiling_Q = np.zeros(6), np.ones(6)
    crossed_Q = np.where(np.arange(6) == 0, -0.5, ceiling_Q)
    total, error = estimated_sum(margins_Q, floor_Q, crossed_Q)
    assert np.isfinite(total)
    assert error > estimated_sum(margins_Q, floor_Q, ceiling_Q)[1]
