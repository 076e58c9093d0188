"""The difference of two fronts, and what of it the questions can tell."""

import numpy as np
import pytest

from switchq.posttraining.search import Metric
from switchq.posttraining.search.front import hypervolume, pareto
from switchq.posttraining.search.fronts import compare_fronts
from switchq.posttraining.search.tried import Tried

from .conftest import Array

CORNER = (16.0, 0.0)


def tried(costs: list[float], values_PQ: Array, metric: str = "F1", corner: tuple[float, float] = CORNER) -> Tried:
    return Tried(Metric(metric), np.array(costs), values_PQ, np.ones(values_PQ.shape[1]), corner)  # type: ignore[arg-type]


def random_search(seed: int, bitmaps: int, questions: int = 40) -> Tried:
    rng = np.random.default_rng(seed)
    costs = rng.integers(4, 32, bitmaps) / 2  # equal ones among them
    return tried(costs.tolist(), (rng.uniform(size=(bitmaps, questions)) < 0.6).astype(float))


def points(of: Tried, counts_Q: Array | None = None) -> list[tuple[float, float]]:
    counts = np.ones(len(of.weights_Q)) if counts_Q is None else counts_Q
    losses = -100 * (of.values_PQ @ counts) / counts.sum()
    return list(zip(of.costs_P.tolist(), losses.tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_fronts_themselves(seed: int) -> None:
    first, second = random_search(seed, 30), random_search(seed + 100, 8)
    found = compare_fronts(first, second, resamples=50)
    volumes = [hypervolume(points(one), CORNER) for one in (first, second)]
    assert found.volume.value == pytest.approx(volumes[1] / volumes[0] - 1)
    gaps = []
    for cost in np.arange(2, 16, 0.25):  # every height of both is on this grid
        heights = [
            min((loss for own, loss in pareto(points(one), lambda p: p) if own <= cost), default=np.inf)
            for one in (first, second)
        ]
        if np.isfinite(heights).all():
            gaps.append(heights[0] - heights[1])
    assert found.below.value == pytest.approx(max(0, -min(gaps)))
    assert found.above.value == pytest.approx(max(0, max(gaps)))
    assert found.height.value == pytest.approx(np.mean(gaps))


def test_the_intervals_are_those_of_fronts_that_are_chosen_anew() -> None:
    first, second = random_search(1, 20), random_search(2, 20)
    found = compare_fronts(first, second, resamples=300, seed=5)
    drawn_RQ = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), 300)
    volumes = [[hypervolume(points(one, counts), CORNER) for counts in drawn_RQ] for one in (first, second)]
    low, high = np.percentile(np.divide(volumes[1], volumes[0]) - 1, [2.5, 97.5])
    assert (found.volume.low, found.volume.high) == pytest.approx((low, high))


def test_a_front_is_as_good_as_itself() -> None:
    one = random_search(3, 12)
    found = compare_fronts(one, one, resamples=100)
    for estimate in (found.volume, found.height, found.held_out, found.below, found.above):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_bitmaps_that_are_tried_in_vain_raise_the_front_only_on_the_questions_it_was_chosen_by() -> None:
    """A hundred bitmaps that are all equally good, against five of them."""
    rng = np.random.default_rng(0)
    values_PQ = (rng.uniform(size=(100, 120)) < 0.7).astype(float)
    many = tried([4.0] * 100, values_PQ)
    few = tried([4.0] * 5, values_PQ[:5])
    found = compare_fronts(many, few)
    assert found.height.value < -3
    assert found.height.high < 0
    assert found.held_out.low < 0 < found.held_out.high
    assert abs(found.held_out.value) < 1.5


def test_a_real_difference_is_seen_on_questions_left_out() -> None:
    rng = np.random.default_rng(0)
    easy_PQ = (rng.uniform(size=(6, 150)) < np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.5])[:, None]).astype(float)
    good, bad = tried([4.0, 5.0, 6.0], easy_PQ[:3]), tried([4.0, 5.0, 6.0], easy_PQ[3:])
    found = compare_fronts(good, bad)
    assert max(found.held_out.high, found.height.high, found.volume.high) < 0
    assert found.below.low > 20
    assert found.above.value == 0


def test_a_front_from_nothing_grows_without_bounds() -> None:
    """Where resamples leave one front no volume at all, the intervals are still numbers."""
    values_PQ = np.eye(4)[:1]  # one question of four is answered: a third of the resamples have none
    found = compare_fronts(tried([4.0], values_PQ), tried([4.0], values_PQ + np.eye(4)[1:2]), resamples=500)
    assert (found.volume.value, found.volume.low, found.volume.high) == (1.0, 0.0, np.inf)
    one = tried([4.0], np.zeros((1, 4)))
    assert compare_fronts(one, one, resamples=50).volume.high == 0


def test_lower_is_better_metrics_and_weights() -> None:
    values_PQ, weights_Q = np.array([[1.0, 2.0], [0.5, 1.0]]), np.array([1.0, 4.0])
    one = Tried(Metric("perplexity"), np.array([4.0, 8.0]), values_PQ, weights_Q, (16.0, 3.0))
    worse = Tried(Metric("perplexity"), np.array([4.0, 8.0]), values_PQ + 0.1 * weights_Q, weights_Q, (16.0, 3.0))
    found = compare_fronts(one, worse, resamples=20)
    assert found.below.value == pytest.approx(np.expm1(0.1) * np.exp(0.6))
    assert found.height.value < 0


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions"):
        compare_fronts(random_search(0, 5), random_search(0, 5, questions=41))
    with pytest.raises(ValueError, match="same questions"):
        compare_fronts(tried([4.0], np.ones((1, 3))), tried([4.0], np.ones((1, 3)), "EM"))
