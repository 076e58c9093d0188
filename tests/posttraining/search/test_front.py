"""The Pareto front against brute force."""

from hypothesis import given
from hypothesis import strategies as st

from switchq.posttraining.search.front import covers, dominates, hypervolume, pareto

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=25)


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    front = pareto(points, lambda point: point)
    assert set(front) == {point for point in points if not any(dominates(other, point) for other in points)}
    assert front == sorted(set(front))
    assert covers(front, points)


@given(POINTS)
def test_the_hypervolume_counts_the_cells_that_are_dominated(points: list[tuple[int, int]]) -> None:
    cells = sum(any(p[0] <= x and p[1] <= y for p in points) for x in range(10) for y in range(10))
    assert hypervolume(points, (10, 10)) == cells


def test_of_equals_the_first_stays() -> None:
    items = [("late", 2, 2), ("first", 1, 1), ("second", 1, 1)]
    assert pareto(items, lambda item: item[1:]) == [("first", 1, 1)]
    assert not dominates((1, 1), (1, 1))


def test_what_a_front_does_not_cover() -> None:
    assert not covers([(1, 3), (3, 1)], [(2, 2)])
    assert covers([(1, 3), (3, 1)], [(3, 2), (1, 3)])


def test_a_point_beyond_the_reference_adds_nothing() -> None:
    assert hypervolume([(1, 1), (11, 0), (0, float("inf"))], (10, 10)) == 81
