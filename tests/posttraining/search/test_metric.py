"""The four metrics: figures, drops, and margins that say the same as the drop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchq.errors import UserError
from switchq.posttraining.search.metric import Metric


@pytest.mark.parametrize(
    ("name", "values", "weights", "figure", "drop"),
    [
        ("F1", [1, 0.5, 0, 0.5], [1, 1, 1, 1], 50.0, 0.375),
        ("EM", [1, 0, 0, 0], [1, 1, 1, 1], 25.0, 0.6875),
        ("perplexity", [np.log(2), 2 * np.log(2)], [1, 2], 2.0, 2 / 80 - 1),
        ("KL", [0.1, 0.2], [1, 2], 0.1, np.exp(0.1) - 1),
    ],
)
def test_figures_and_drops(name: str, values: list[float], weights: list[float], figure: float, drop: float) -> None:
    metric = Metric(name)  # type: ignore[arg-type]
    assert metric.figure(np.array(values, dtype=float), np.array(weights, dtype=float)) == pytest.approx(figure)
    assert metric.drop(figure, 80.0) == pytest.approx(drop)


@given(
    name=st.sampled_from(["F1", "EM", "perplexity", "KL"]),
    rows=st.lists(st.tuples(*[st.floats(0.01, 1)] * 2, st.integers(1, 9)), min_size=1, max_size=30),
    budget=st.floats(0, 0.9),
)
def test_the_sum_of_margins_says_whether_the_drop_is_within_the_budget(
    name: str, rows: list[tuple[float, float, int]], budget: float
) -> None:
    metric = Metric(name)  # type: ignore[arg-type]
    values, full, weights = (np.array(column, dtype=float) for column in zip(*rows))
    if metric.generates:
        weights = np.ones_like(values)
    drop = metric.drop(metric.figure(values, weights), metric.figure(full, weights))
    total = metric.margins(values, full, weights, budget).sum()
    if abs(drop - budget) > 1e-9:
        assert (total >= 0) == (drop <= budget)


def test_lower_is_better_after_turning() -> None:
    assert Metric("F1").loss(90) < Metric("F1").loss(80)
    assert Metric("perplexity").loss(2) < Metric("perplexity").loss(3) < Metric("perplexity").loss(float("nan"))


def test_broken_models_have_finite_margins_and_an_infinite_perplexity() -> None:
    metric, one = Metric("perplexity"), np.ones(2)
    assert metric.figure(np.array([np.inf, 1.0]), one) == float("inf")
    assert metric.figure(np.array([np.nan, 1.0]), one) == float("inf")
    assert np.isfinite(metric.margins(np.array([np.inf, np.nan]), one, one, 0.3)).all()


@pytest.mark.parametrize(
    ("name", "budget"), [("F1", -0.1), ("F1", 1.0), ("EM", 1.5), ("KL", float("nan")), ("perplexity", float("inf"))]
)
def test_budgets_that_make_no_sense(name: str, budget: float) -> None:
    with pytest.raises(UserError, match=f"relative drop of {name}"):
        Metric(name).check_budget(budget)  # type: ignore[arg-type]


def test_a_perplexity_may_more_than_double() -> None:
    Metric("perplexity").check_budget(1.5)
    with pytest.raises(UserError, match="no metric 'BLEU'"):
        Metric("BLEU")  # type: ignore[arg-type]
