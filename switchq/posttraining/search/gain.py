"""What bitmaps that were not evaluated would add to the front, by what they are expected to score."""

from collections.abc import Sequence

import numpy as np

from switchq.bitmap import Bitmap
from switchq.posttraining.search.front import Point, hypervolume, pareto
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.study import Study


def gains(study: Study, bitmaps: Sequence[Bitmap], sums_S: Array, corner: Point) -> Array:
    """(S,): the hypervolume that each of `bitmaps` alone would add.

    Args:
        study: whose points there are.
        bitmaps: S of them.
        sums_S: what the values of all questions are expected to sum to at each.
        corner: cost and loss that hypervolume is measured from.
    """
    metric, weight = study.objective.metric, float(study.objective.full.weights.sum())
    front = pareto((study.point(scored) for scored in study.points.values()), lambda point: point)
    before = hypervolume(front, corner)
    points = [
        (study.price(bitmap), metric.loss(metric.figure_of_mean(float(own) / weight)))
        for bitmap, own in zip(bitmaps, sums_S, strict=True)
    ]
    return np.array([hypervolume([*front, point], corner) - before for point in points])
