"""Fast greedy against plain greedy where the metric is monotone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.posttraining.search import race
from switchq.posttraining.search.front import covers, hypervolume
from switchq.posttraining.search.greedy import fast, plain

from .conftest import Threshold, make_space, make_study


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


@pytest.mark.parametrize(("layers", "budget"), [(16, 0.3), (48, 0.05), (48, 0.3), (120, 0.05)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_front_for_a_fifth_of_the_questions(layers: int, budget: float, seed: int) -> None:
    space = make_space(layers)
    measure = Threshold(space, 200, seed)
    noise = np.random.default_rng(seed).lognormal(sigma=0.5, size=measure.damage_LW.shape)
    studies = {}
    for method in (plain, fast):
        study = make_study(space, measure, 200, budget)
        study.start("greedy")
        end = method(study, measure.damage_LW * noise)
        studies[method] = study, end
    (slow, slow_end), (quick, quick_end) = studies[plain], studies[fast]
    assert quick_end == slow_end
    assert quick.objective.evaluated["greedy"] <= slow.objective.evaluated["greedy"] / 5
    volumes = [
        hypervolume([study.point(one) for one in study.points.values() if study.verdicts[one.bitmap]], (16.0, 0.0))
        for study in (slow, quick)
    ]
    assert volumes[1] >= 0.97 * volumes[0]
    assert covers([slow.point(one) for one in slow.points.values()], [quick.point(quick.points[quick_end])])


def test_a_race_that_went_wrong_is_walked_back(monkeypatch: pytest.MonkeyPatch) -> None:
    space = make_space(16)
    measure = Threshold(space, 200, seed=3)
    monkeypatch.setattr(race, "Z", 0.0)  # decides after the first stage, right or wrong
    study = make_study(space, measure, 200, 0.3)
    study.start("greedy")
    end = fast(study, measure.damage_LW)
    assert study.objective.within(end)


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
