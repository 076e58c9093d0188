"""Which points nothing beats: no other is as small and better, or as good and smaller."""

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]], higher_is_better: bool = True) -> list[bool]:
    """Whether each (size, quality) is on the front: a smaller size is better, and a higher or a lower quality.

    Equal points are all on the front or none of them.
    """
    sign = 1 if higher_is_better else -1
    best, front = float("-inf"), {}
    for size, quality in sorted({(size, sign * quality) for size, quality in points}, key=lambda p: (p[0], -p[1])):
        front[(size, quality)] = quality > best
        best = max(best, quality)
    return [front[(size, sign * quality)] for size, quality in points]
