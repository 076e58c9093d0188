"""The Pareto front of (cost, loss), both to be minimised: who is on it, how large it is, who dominates whom.

A point dominates another if it is no worse in both and better in one. Of points that are equal in both the first one
given stays. The hypervolume (Zitzler and Thiele, 1998) is the area between the front and a reference point.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Point = tuple[float, float]
"""Cost and loss."""

T = TypeVar("T")


def pareto(items: Iterable[T], key: Callable[[T], Point]) -> list[T]:
    """The items that none dominates, cheapest first."""
    front: list[T] = []
    best = math.inf
    for item in sorted(items, key=key):  # stable: of equals the first comes first
        loss = key(item)[1]
        if loss < best:
            front.append(item)
            best = loss
    return front


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is no worse than `other` in both, and better in one."""
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def covers(front: Sequence[Point], points: Iterable[Point]) -> bool:
    """Whether every point is on the front or dominated by a point of it."""
    return all(any(own == point or dominates(own, point) for own in front) for point in points)


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The area that `points` dominate below and left of `reference`."""
    front = pareto((p for p in points if p[0] < reference[0] and p[1] < reference[1]), lambda point: point)
    ends = [*(cost for cost, _ in front[1:]), reference[0]]
    return sum((end - cost) * (reference[1] - loss) for (cost, loss), end in zip(front, ends))
