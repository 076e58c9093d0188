"""Integer programming against all assignments."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from switchq.posttraining.search.front import covers
from switchq.posttraining.search.ilp import ilp, solve

from .conftest import Threshold, make_space, make_study


@settings(max_examples=40, deadline=None)
@given(
    units=st.integers(1, 5), choices=st.integers(1, 4), seed=st.integers(0, 999), share=st.integers(-10, 110),
    tables=st.integers(1, 2),
)  # fmt: skip
def test_the_best_of_all_assignments(units: int, choices: int, seed: int, share: int, tables: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=(units, choices))
    limits = []
    for _ in range(tables):
        costs = rng.uniform(-1, 1, size=(units, choices))
        low, high = costs.min(1).sum(), costs.max(1).sum()
        limits.append((costs, float(low + share / 100 * (high - low))))
    rows = np.arange(units)
    allowed = [
        picks
        for picks in itertools.product(range(choices), repeat=units)
        if all(costs[rows, list(picks)].sum() <= limit for costs, limit in limits)
    ]
    found = solve(scores, limits)
    if not allowed:
        assert found is None
        return
    assert found is not None
    best = min(scores[rows, list(picks)].sum() for picks in allowed)
    assert np.isclose(scores[rows, list(found)].sum(), best, rtol=1e-6)
    assert all(costs[rows, list(found)].sum() <= limit + 1e-6 for costs, limit in limits)


def test_every_point_is_on_the_true_front_where_damage_adds_up() -> None:
    space = make_space(5, (4, 2), seed=3)
    measure = Threshold(space, 40, seed=5)
    study = make_study(space, measure, 40)
    study.start("ilp")
    ilp(study, measure.damage_LW)
    found = [study.point(scored) for scored in study.points.values()]
    everything = make_study(space, measure, 40)
    for genome in itertools.product(space.choices, repeat=5):
        everything.score(space.bitmap(genome))
    assert len(found) >= 5
    assert covers([study.point(scored) for scored in everything.front()], found)
    loss = {study.price(bitmap): study.point(one)[1] for bitmap, one in study.points.items()}
    for cost, own in loss.items():
        assert own == min(
            everything.point(one)[1] for one in everything.points.values() if everything.point(one)[0] <= cost
        )


def test_the_limits_get_a_point_of_their_own() -> None:
    space = make_space(6, seed=1)
    measure = Threshold(space, 40, seed=2)
    study = make_study(space, measure, 40, limits={"average_bits": 5.3, "weight_mb": 2.4})
    ilp(study, measure.damage_LW)
    assert any(study.fits(bitmap) for bitmap in study.points)
