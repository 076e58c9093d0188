"""Bootstrap intervals: against the normal approximation, paired, weighted, degenerate."""

import numpy as np
import pytest

from switchq.evaluation.tasks import Items
from switchq.evaluation.tasks.task import Scale
from switchq.posttraining.bootstrap import difference_interval, interval, mean_gap, paired_difference


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


@pytest.mark.parametrize("scale", ["mean", "exp"])
def test_a_paired_difference_against_a_loop(scale: Scale) -> None:
    rng = np.random.default_rng(2)
    weights = rng.integers(1, 9, 40).astype(float)
    shared = rng.uniform(size=40)
    one, other = (shared + shift * rng.uniform(size=40) for shift in (0.3, 0.1))
    first, second = (Items(tuple(values), tuple(weights), scale) for values in (one, other))
    found, low, high = paired_difference(first, second)
    draws = []
    for _ in range(20_000):
        drawn = rng.integers(0, 40, 40)
        means = [values[drawn].sum() / weights[drawn].sum() for values in (one, other)]
        left, right = np.exp(means) if scale == "exp" else means
        draws.append(left - right)
    assert found == pytest.approx(first.figure() - second.figure())
    assert (low, high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), rel=0.05)


def test_a_difference_of_means_is_that_of_the_plain_interval() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.uniform(size=60), rng.uniform(size=60)
    _, *ends = paired_difference(Items(tuple(one)), Items(tuple(other)), seed=4)
    assert ends == pytest.approx(difference_interval(one.tolist(), other.tolist(), seed=4))


def test_a_difference_of_what_is_not_finite_has_no_interval() -> None:
    found, low, high = paired_difference(Items((1.0, np.inf)), Items((1.0, 2.0)))
    assert found == np.inf
    assert np.isnan([low, high]).all()


def test_other_examples_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same examples"):
        paired_difference(Items((1.0, 2.0)), Items((1.0,)))


def test_resamples_without_weight_leave_no_interval_and_no_warning() -> None:
    one = Items((5.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    found, low, high = paired_difference(one, Items((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)))
    assert found == 3.0
    assert np.isnan([low, high]).all()


def perplexities(rng: np.random.Generator, shift: float, shared: np.ndarray) -> Items:
    weights = np.full(len(shared), 3.0)
    return Items(tuple(3 * (shared + shift * rng.uniform(size=len(shared)))), tuple(weights), "exp")


def test_a_mean_gap_against_a_loop() -> None:
    rng = np.random.default_rng(3)
    shared = rng.uniform(size=30)
    pairs = [(perplexities(rng, 0.3, shared), perplexities(rng, 0.1, shared)) for _ in range(3)]
    found, low, high = mean_gap(pairs)
    assert found == pytest.approx(np.mean([one.figure() / other.figure() - 1 for one, other in pairs]))
    draws = []
    for _ in range(4000):
        drawn = rng.integers(0, 30, 30)  # the same windows for every figure
        means = [[np.array(items.values)[drawn].sum() / 90 for items in pair] for pair in pairs]
        draws.append(np.mean([np.exp(one - other) - 1 for one, other in means]))
    assert (low, high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), rel=0.05)
    assert low < found < high


def test_a_mean_gap_of_equal_models_is_nought_and_of_broken_ones_has_no_interval() -> None:
    same = Items((1.0, 2.0), (1.0, 1.0), "exp")
    assert mean_gap([(same, same)] * 2) == (0, 0, 0)
    broken = Items((np.inf, 2.0), (1.0, 1.0), "exp")
    found, low, high = mean_gap([(broken, same)])
    assert np.isinf(found)
    assert np.isnan([low, high]).all()
    for other in (Items((1.0,), (1.0,), "exp"), Items((1.0, 2.0), (1.0, 1.0))):
        with pytest.raises(ValueError, match="same examples"):
            mean_gap([(same, other)])
