"""Fast greedy against plain greedy where the metric is monotone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.bitmap import Bitmap
from switchq.posttraining.search import Measurement, Study
from switchq.posttraining.search.front import hypervolume
from switchq.posttraining.search.greedy import fast, plain
from switchq.posttraining.search.report import reference_point

from .conftest import Array, Crossing, Divergence, Threshold, make_space, make_study


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 14), widths=st.sampled_from([(8, 4, 2), (4,), (6, 3)]), seed=st.integers(0, 10_000),
    budget=st.floats(0, 0.9), ranking=st.sampled_from(["right", "random"]),
)  # fmt: skip
def test_both_end_at_the_same_bitmap(
    layers: int, widths: tuple[int, ...], seed: int, budget: float, ranking: str
) -> None:
    """As long as evaluations do not run out."""
    space = make_space(layers, widths)
    measure = Threshold(space, 20, seed)
    scores = measure.damage_LW if ranking == "right" else np.random.default_rng(seed).uniform(size=(layers, 4))
    ends = []
    for method in (plain, partial(fast, share=10.0)):
        study = make_study(space, measure, 20, budget)
        study.start("greedy")
        ends.append(method(study, scores))
        assert study.objective.within(ends[-1])
    assert ends[0] == ends[1]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layers=st.integers(24, 48), seed=st.integers(0, 999), budget=st.floats(0.02, 0.3), sigma=st.floats(0, 1))
def test_the_same_front_for_a_fifth_of_the_questions(layers: int, seed: int, budget: float, sigma: float) -> None:
    """The same steps; a staircase of fewer points dominates a little less."""
    slow, quick = compared(Threshold, "F1", layers, seed, budget, sigma)
    assert quick.end == slow.end
    assert set(quick.kept) <= set(slow.kept)
    assert quick.evaluations <= slow.evaluations / 5
    assert quick.volume >= 0.99 * slow.volume


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layers=st.integers(24, 48), seed=st.integers(0, 999), budget=st.floats(0.02, 0.3), sigma=st.floats(0, 1))
def test_a_fifth_where_no_two_bitmaps_agree_on_a_question(layers: int, seed: int, budget: float, sigma: float) -> None:
    """Losses that grow steadily leave nothing to infer, and steps near the budget may stay untried; but they add up, so
    that what lies between is known."""
    slow, quick = compared(Divergence, "KL", layers, seed, budget, sigma)
    assert quick.evaluations <= slow.evaluations / 5
    assert quick.end in quick.kept
    assert quick.volume >= 0.98 * slow.volume


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("budget", [0.03, 0.1])
def test_a_fifth_of_a_model_that_is_not_monotone(budget: float, seed: int) -> None:
    slow, quick = compared(Crossing, "F1", 30, seed, budget, 0.5, widths=(8, 4, 3, 2))
    assert quick.evaluations <= slow.evaluations / 5
    assert quick.end in quick.kept
    assert quick.volume >= 0.985 * slow.volume


@dataclass(frozen=True)
class Outcome:
    """What a method came to: its end, the points that keep the budget, evaluations, hypervolume of all points."""

    end: Bitmap
    kept: list[Bitmap]
    evaluations: int
    volume: float


def compared(
    model: type[Threshold],
    metric: str,
    layers: int,
    seed: int,
    budget: float,
    sigma: float,
    widths: tuple[int, ...] = (8, 4, 2),
) -> tuple[Outcome, Outcome]:
    """Plain and fast greedy, by sensitivities with some noise, after the uniform and striped bitmaps."""
    space = make_space(layers, widths)
    measure = model(space, 100, seed)
    noise = np.random.default_rng(seed).lognormal(sigma=sigma, size=measure.damage_LW.shape)
    found = []
    for method in (plain, fast):
        study, end = run(method, make_study(space, measure, 100, budget, metric), measure.damage_LW * noise)
        kept = [bitmap for bitmap in study.points if study.verdicts[bitmap]]
        volume = hypervolume([study.point(one) for one in study.points.values()], reference_point(study))
        found.append(Outcome(end, kept, study.objective.evaluated["greedy"], volume))
    return found[0], found[1]


@pytest.mark.parametrize("metric", [(Threshold, "F1"), (Divergence, "KL")])
@pytest.mark.parametrize(("layers", "budget"), [(16, 0.3), (120, 0.05)])
def test_small_and_large_models(layers: int, budget: float, metric: tuple[type[Threshold], str]) -> None:
    space = make_space(layers)
    measure = metric[0](space, 200, 1)
    (slow, slow_end), (quick, quick_end) = (
        run(method, make_study(space, measure, 200, budget, metric[1]), measure.damage_LW) for method in (plain, fast)
    )
    assert quick_end == slow_end
    assert quick.objective.evaluated["greedy"] <= slow.objective.evaluated["greedy"] / 5


class Lucky(Threshold):
    """Narrowing helps now and then: in one of twenty answers right and wrong change places."""

    def __call__(self, bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        found = super().__call__(bitmap, rows)
        flips = np.random.default_rng([*bitmap]).uniform(size=100)[list(rows)] < 0.05
        right = np.abs(np.array(found.values["F1"]) - flips).tolist()
        return Measurement({"F1": right, "EM": right}, found.weights, found.tokens, found.seconds)


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_is_not_monotone_still_keeps_the_budget(seed: int) -> None:
    space = make_space(16)
    measure = Lucky(space, 100, seed)
    study, end = run(fast, make_study(space, measure, 100, 0.1), measure.damage_LW)
    assert study.points[end].questions == 100
    assert study.objective.within(end)
    assert all(one in study.verdicts for one in study.points)


def run(method: Callable[[Study, Array], Bitmap], study: Study, scores: Array) -> tuple[Study, Bitmap]:
    """The study and where the method ended."""
    if study.objective.metric.generates:
        assert study.objective.full_figure > 0
    study.references()
    study.start("greedy")
    return study, method(study, scores)


def test_a_hopeless_model_stays_at_full_precision() -> None:
    space = make_space(6)
    measure = Threshold(space, 20, seed=0)
    measure.damage_LW[:, 1:] = 1e9
    for method in (plain, fast):
        study = make_study(space, measure, 20)
        study.start("greedy")
        assert tuple(method(study, measure.damage_LW)) == (16,) * 6


def test_the_steps_go_from_least_to_most_sensitive_widest_first() -> None:
    space = make_space(3, (8, 2))
    study = make_study(space, Threshold(space, 20, seed=0, spread=1e9), 20)
    plain(study, np.array([[0, 3.0, 1.0], [0, 1.0, 1.0], [0, 2.0, 0.5]]))
    assert [tuple(bitmap) for bitmap in study.points] == [
        (16, 8, 16), (16, 8, 8), (8, 8, 8), (8, 8, 2), (2, 8, 2), (2, 2, 2),
    ]  # fmt: skip
