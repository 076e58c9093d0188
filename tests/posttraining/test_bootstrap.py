"""Bootstrap intervals: against the normal approximation, paired, weighted, degenerate."""

import numpy as np
import pytest

from switchq.posttraining.bootstrap import difference_interval, interval


def test_close_to_the_normal_interval_for_many_questions() -> None:
    scores = np.random.default_rng(0).uniform(size=2000)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    low, high = interval(scores.tolist())
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.1 * half)


def test_against_a_loop() -> None:
    scores, weights = [1.0, 0.0, 3.0, 2.0, 8.0], [1.0, 2.0, 1.0, 4.0, 2.0]
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(20_000):
        drawn = rng.integers(0, 5, 5)
        ratios.append(np.array(scores)[drawn].sum() / np.array(weights)[drawn].sum())
    assert interval(scores, weights) == pytest.approx(np.percentile(ratios, [2.5, 97.5]), rel=0.05)


def test_the_seed_decides() -> None:
    scores = np.random.default_rng(0).uniform(size=50).tolist()
    assert interval(scores, seed=3) == interval(scores, seed=3) != interval(scores, seed=4)


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.uniform(size=200)
    low, high = difference_interval((shared + 0.1).tolist(), shared.tolist())
    assert (low, high) == pytest.approx((0.1, 0.1))
    wide = interval(shared.tolist())
    assert wide[1] - wide[0] > 0.05


@pytest.mark.parametrize("scores", [[0.5], [0.25] * 7], ids=["one question", "all alike"])
def test_nothing_varies(scores: list[float]) -> None:
    assert interval(scores) == (scores[0], scores[0])


def test_no_questions() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        interval([])
