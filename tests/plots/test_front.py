from hypothesis import given
from hypothesis import strategies as st

from switchq.plots.front import pareto

POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@given(POINTS, st.booleans())
def test_the_front_is_what_brute_force_finds(points: list[tuple[float, float]], higher: bool) -> None:
    sign = 1 if higher else -1
    expected = [
        not any(other[0] <= own[0] and sign * other[1] >= sign * own[1] and other != own for other in points)
        for own in points
    ]
    assert pareto(points, higher) == expected
