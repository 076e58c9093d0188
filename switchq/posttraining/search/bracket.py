"""Does a bitmap keep the budget? Judged by what is known of wider and narrower bitmaps, where narrowing never helps.

If the metric is monotone, each question's margin lies between a ceiling, its least margin at any wider bitmap, and a
floor, its largest at any narrower one. Where the two agree the question need not be asked. The others are asked in a
few helpings, because a model answers many at once, until those left cannot change the sign of the sum: first those
whose bounds are furthest apart, of equals those that bitmaps have lost most on so far. A refusal needs only as many
questions as it takes to lose more than the budget allows.

Perplexity and KL change on every question with every step, so that bounds seldom meet. There the sum is estimated, too
(`switchq.posttraining.search.estimate`), and an estimate `SURE` standard errors from zero decides. The questions are
asked in their own order, which was drawn at random, so that those asked stand for all.

A real model is only nearly monotone: a question that has once been better at a bitmap than at a wider one has its
bounds moved apart by as much.
"""

import numpy as np
from numpy.typing import NDArray

from switchq.bitmap import FULL, Bitmap
from switchq.posttraining.search.estimate import estimated_sum
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.objective import SMALLEST_LOOK, Objective, keeps

SURE = 2.5
"""Standard errors. A bitmap that is accepted wrongly is found out at the end; one refused wrongly costs a step."""

FIRST = 8
"""What part of the open questions the first helping is, as a denominator; later ones are as large as all before."""


def bracket(objective: Objective, bitmap: Bitmap, allowance: int) -> tuple[bool | None, list[int]]:
    """Whether `bitmap` keeps the budget, and the questions at it that this rests on, which may be none.

    Args:
        objective: what is known, and who to ask.
        bitmap: the one in question.
        allowance: most question evaluations; None is the answer if they do not tell.
    """
    low_Q, high_Q, asked_Q, lost_Q = _known(objective, bitmap)
    asked = [int(row) for row in np.flatnonzero(asked_Q)]
    additive = not objective.metric.generates
    order = objective.all if additive else np.lexsort((-lost_Q, low_Q - high_Q))
    open_ = [int(row) for row in order if low_Q[row] < high_Q[row]]
    first = max(-(-len(open_) // FIRST), SMALLEST_LOOK)
    while True:
        if keeps(low_Q):
            return True, sorted(asked)
        if not keeps(high_Q):
            return False, sorted(asked)
        if additive and len(asked) >= SMALLEST_LOOK:
            total, error = estimated_sum(np.where(low_Q == high_Q, low_Q, np.nan), *_whole(objective, bitmap))
            if abs(total) > SURE * error:
                return total > 0, sorted(asked)
        size = min(max(first, len(asked)), allowance)
        if size <= 0:
            return None, sorted(asked)
        allowance -= size
        helping, open_ = open_[:size], open_[size:]
        low_Q[helping] = high_Q[helping] = objective.margins(bitmap, helping)
        asked += helping


def _known(objective: Objective, bitmap: Bitmap) -> tuple[Array, Array, NDArray[np.bool_], Array]:
    """For each question: least and largest margin, whether it was asked, and the mean loss of all bitmaps on it."""
    full_Q, own_L = objective.margins(Bitmap.stripe([FULL], objective.layers)), np.array(bitmap)
    bitmaps_BL, margins_BQ = objective.used()
    wider_B, narrower_B = (bitmaps_BL >= own_L).all(1), (bitmaps_BL <= own_L).all(1)
    asked_BQ = ~np.isnan(margins_BQ)
    floor_Q, ceiling_Q = _between(objective, margins_BQ[narrower_B], margins_BQ[wider_B])
    low_Q, high_Q = np.minimum(floor_Q, ceiling_Q), np.maximum(floor_Q, ceiling_Q)
    broken_Q = _broken(bitmaps_BL, np.where(asked_BQ, margins_BQ, np.inf), asked_BQ)
    low_Q = np.maximum(low_Q - broken_Q, objective.worst_margins())
    high_Q = np.minimum(high_Q + broken_Q, np.where(asked_BQ, margins_BQ, -np.inf).max(0))
    same_B = wider_B & narrower_B
    asked_Q: NDArray[np.bool_] = np.any(asked_BQ[same_B], axis=0)
    if same_B.any():
        low_Q[asked_Q] = high_Q[asked_Q] = margins_BQ[same_B][0][asked_Q]
    lost_Q = np.where(asked_BQ, full_Q - margins_BQ, 0).sum(0) / asked_BQ.sum(0)
    return low_Q, high_Q, asked_Q, lost_Q


def _between(objective: Objective, narrower_BQ: Array, wider_BQ: Array) -> tuple[Array, Array]:
    """Floor and ceiling of each question, by margins at narrower and at wider bitmaps, NaN where one was not asked."""
    floor_Q = np.where(np.isnan(narrower_BQ), -np.inf, narrower_BQ).max(0, initial=-np.inf)
    ceiling_Q = np.where(np.isnan(wider_BQ), np.inf, wider_BQ).min(0)
    return np.where(np.isinf(floor_Q), objective.worst_margins(), floor_Q), ceiling_Q


def _whole(objective: Objective, bitmap: Bitmap) -> tuple[Array, Array]:
    """Floor and ceiling of each question at `bitmap`, by those bitmaps that were asked all questions."""
    bitmaps_BL, margins_BQ = objective.used()
    other_B = ~np.isnan(margins_BQ).any(1)
    bitmaps_BL, margins_BQ, own_L = bitmaps_BL[other_B], margins_BQ[other_B], np.array(bitmap)
    narrower_B, wider_B = (bitmaps_BL <= own_L).all(1), (bitmaps_BL >= own_L).all(1)
    return _between(objective, margins_BQ[narrower_B], margins_BQ[wider_B])


def _broken(bitmaps_BL: NDArray[np.int64], margins_BQ: Array, asked_BQ: NDArray[np.bool_]) -> Array:
    """By how much each question broke the rule at most: its margin at a bitmap above that at a wider one."""
    most_Q = np.zeros(margins_BQ.shape[1])
    for own_L, own_Q, asked_Q in zip(bitmaps_BL, margins_BQ, asked_BQ):
        ceiling_Q = margins_BQ[(bitmaps_BL >= own_L).all(1)].min(0)
        most_Q[asked_Q] = np.maximum(most_Q, own_Q - ceiling_Q)[asked_Q]
    return most_Q
