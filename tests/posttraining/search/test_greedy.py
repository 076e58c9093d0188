"""Fast greedy against plain greedy where the metric is monotone."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.bitmap import Bitmap
from switchq.posttraining.search import Measurement, Study
from switchq.posttraining.search.front import hypervolume
from switchq.posttraining.search.greedy import fast, plain
from switchq.posttraining.search.report import reference_point

from .conftest import Array, Divergence, Threshold, make_space, make_study


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 14), widths=st.sampled_from([(8, 4, 2), (4,), (6, 3)]), seed=st.integers(0, 10_000),
    budget=st.floats(0, 0.9), ranking=st.sampled_from(["right", "random"]),
)  # fmt: skip
def test_both_end_at_the_same_bitmap(
    layers: int, widths: tuple[int, ...], seed: int, budget: float, ranking: str
) -> None:
    """With so few questions that there is one stage, no race can go wrong."""
    space = make_space(layers, widths)
    measure = Threshold(space, 20, seed)
    scores = measure.damage_LW if ranking == "right" else np.random.default_rng(seed).uniform(size=(layers, 4))
    ends = []
    for method in (plain, fast):
        study = make_study(space, measure, 20, budget)
        study.start("greedy")
        ends.append(method(study, scores))
        assert study.objective.within(ends[-1])
    assert ends[0] == ends[1]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layers=st.integers(24, 48), seed=st.integers(0, 999), budget=st.floats(0.02, 0.3), sigma=st.floats(0, 1))
def test_the_same_front_for_a_fifth_of_the_questions(layers: int, seed: int, budget: float, sigma: float) -> None:
    share, volume = compared(Threshold, "F1", layers, seed, budget, sigma)
    assert share <= 1 / 5
    assert volume >= 1


@settings(max_examples=15, deadline=None, derandomize=True)
@given(layers=st.integers(24, 48), seed=st.integers(0, 999), budget=st.floats(0.1, 0.3), sigma=st.floats(0, 1))
def test_a_quarter_where_no_two_bitmaps_agree_on_a_question(
    layers: int, seed: int, budget: float, sigma: float
) -> None:
    """Losses that grow steadily leave little to infer, and a staircase of fewer steps dominates a little less.

    At tighter budgets many steps are refused by a hair's breadth, each at the cost of most questions.
    """
    share, volume = compared(Divergence, "KL", layers, seed, budget, sigma)
    assert share <= 1 / 4
    assert volume >= 0.9


def compared(
    model: type[Threshold], metric: str, layers: int, seed: int, budget: float, sigma: float
) -> tuple[float, float]:
    """Fast greedy's question evaluations and hypervolume relative to plain's, by sensitivities with some noise."""
    space = make_space(layers)
    measure = model(space, 100, seed)
    noise = np.random.default_rng(seed).lognormal(sigma=sigma, size=measure.damage_LW.shape)
    (slow, slow_end), (quick, quick_end) = (
        run(method, make_study(space, measure, 100, budget, metric), measure.damage_LW * noise)
        for method in (plain, fast)
    )
    assert quick_end == slow_end
    assert {bitmap for bitmap in quick.path[1:] if bitmap in quick.points} <= {*slow.points}
    corner = reference_point(slow)
    volumes = [hypervolume([study.point(one) for one in study.points.values()], corner) for study in (slow, quick)]
    return quick.objective.evaluated["greedy"] / slow.objective.evaluated["greedy"], volumes[1] / volumes[0]


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
    study.start("greedy")
    if study.objective.metric.generates:
        assert study.objective.full_figure > 0
    study.objective.evaluated.clear()
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
