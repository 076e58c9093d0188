"""Rank correlations, against the textbook formula and at their edges."""

import math

import pytest

from switchq.posttraining.sensitivity import correlations
from switchq.posttraining.sensitivity.ranking import rank_correlation


def test_the_textbook_formula_for_ranks_without_ties() -> None:
    one, other = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6], [2.0, 7.0, 1.0, 8.0, 2.8, 1.8]
    ranks = [[sorted(values).index(value) for value in values] for values in (one, other)]
    squares = sum((a - b) ** 2 for a, b in zip(*ranks))
    assert rank_correlation(one, other) == pytest.approx(1 - 6 * squares / (6 * 35))


def test_only_order_matters() -> None:
    values = [0.1, 5.0, 0.2, 7.0]
    assert rank_correlation(values, [math.exp(value) for value in values]) == pytest.approx(1)
    assert rank_correlation(values, [-value for value in values]) == pytest.approx(-1)
    assert rank_correlation(values, [0.1, 5.0, 0.2, math.inf]) == pytest.approx(1)


@pytest.mark.parametrize(("one", "other"), [([1.0, 1.0], [1.0, 2.0]), ([1.0], [1.0]), ([math.inf] * 3, [1, 2, 3])])
def test_not_defined(one: list[float], other: list[float]) -> None:
    assert rank_correlation(one, other) is None


def test_over_all_widths_and_within_each() -> None:
    scores = {"a": {8: [1.0, 2.0], 4: [3.0, 4.0]}, "b": {8: [2.0, 1.0], 4: [4.0, 3.0]}}
    found = correlations(scores)
    assert found.keys() == {"a", "b", "a@8", "b@8", "a@4", "b@4"}
    assert found["a@8"] == {"a@8": pytest.approx(1), "b@8": pytest.approx(-1)}
    assert found["a"]["b"] == found["b"]["a"] == pytest.approx(0.6)
