"""Points along a path of bitmaps, where the front may gain most: optimism in the face of uncertainty, by questions.

Neighbours on a path answer nearly all questions alike. A bitmap's value on a question that it was not asked is
predicted by the nearest bitmaps before and after it that were: on the line between them, t of the way from a to b,

    value = (1 - t) a + t b,    variance = t (1 - t) ((a - b)^2 + w d)

where d is the mean of (a - b)^2 over the questions that this bitmap was not asked, and w says how readily the value of
this question changes along the path, next to the others: two that agree may still differ from what lies between.

The bitmap that would add most to the hypervolume if it were `optimism` standard deviations better than predicted is
asked next, first those questions that hold half of its variance. If its chances are gone it rests there; otherwise its
turn comes again until it was asked all questions, which makes it a point. Where no bitmap has chances, optimism grows.
This is for F1 and EM; perplexity and KL differ a little on every question everywhere (`place`).
"""

from collections.abc import Sequence

import numpy as np

from switchq.bitmap import Bitmap
from switchq.posttraining.search.gain import gains
from switchq.posttraining.search.metric import WORST, Array
from switchq.posttraining.search.report import reference_point
from switchq.posttraining.search.study import Study

NEGLIGIBLE = 1e-3
"""Share of the area between the path's ends below which a gain is left alone."""

OPTIMISM = (1.0, 1.5, 2.25, 3.4, 5.1, 7.6)
"""Standard deviations, tried in turn."""

HELPING = 8
"""The least part of all questions that is asked together, as a denominator."""

PRIOR = 0.25
"""How many expected squared changes a question's own readiness to change has to outweigh."""


def fill_in(study: Study, path: Sequence[Bitmap], allowance: int, negligible: float = NEGLIGIBLE) -> None:
    """Spend at most `allowance` question evaluations on points along `path`, both of whose ends are points already.

    Args:
        study: the search.
        path: bitmaps, each narrower than the one before.
        allowance: question evaluations.
        negligible: see `NEGLIGIBLE`.
    """
    if len(path) < 3:
        return
    objective, corner = study.objective, reference_point(study)
    begin, end = study.point(study.points[path[0]]), study.point(study.points[path[-1]])
    least = negligible * abs(begin[0] - end[0]) * abs(begin[1] - end[1])
    chances = iter(OPTIMISM)
    optimism = next(chances)
    while True:
        values_SQ = np.stack([objective.known(bitmap) for bitmap in path])
        missing_S = np.isnan(values_SQ).sum(1)
        means_SQ, variances_SQ = predicted(np.clip(values_SQ, -WORST, WORST))
        gains_S = gains(study, path, means_SQ.sum(1) + optimism * np.sqrt(variances_SQ.sum(1)), corner)
        gains_S[(missing_S == 0) | (missing_S > allowance)] = 0.0
        step = int(gains_S.argmax())
        if not gains_S[step] > max(least, 0.0):
            if (optimism := next(chances, 0.0)) == 0.0:
                return
            continue
        rows = _helping(variances_SQ[step], np.isnan(values_SQ[step]))
        allowance -= len(rows)
        if len(rows) == missing_S[step]:
            study.score(path[step])
        else:
            study.row(objective.score(path[step], rows), study.verdicts.get(path[step], False))


def predicted(values_SQ: Array) -> tuple[Array, Array]:
    """Means and variances (S, Q) of the values along a path.

    Args:
        values_SQ: of S bitmaps on Q questions, NaN where one was not asked; the first and last were asked all.
    """
    steps, questions = values_SQ.shape
    steps_S, asked_SQ = np.arange(steps), ~np.isnan(values_SQ)
    means_SQ, squares_SQ, shares_SQ = (np.zeros_like(values_SQ) for _ in range(3))
    changes_Q = np.zeros(questions)
    for question in range(questions):
        asked = np.flatnonzero(asked_SQ[:, question])
        values = values_SQ[asked, question]
        means_SQ[:, question] = np.interp(steps_S, asked, values)
        after_S = np.clip(np.searchsorted(asked, steps_S, side="right"), 1, len(asked) - 1)
        t_S = (steps_S - asked[after_S - 1]) / (asked[after_S] - asked[after_S - 1])
        shares_SQ[:, question] = t_S * (1 - t_S)
        squares_SQ[:, question] = np.diff(values)[after_S - 1] ** 2
        changes_Q[question] = (np.diff(values) ** 2).sum()
    squares_SQ[asked_SQ] = 0.0
    expected_Q = (asked_SQ.sum(0) - 1) * (changes_Q.sum() / (asked_SQ.sum() - questions))
    ready_Q = (PRIOR + changes_Q) / (PRIOR + expected_Q)
    mean_S = squares_SQ.sum(1) / np.maximum((~asked_SQ).sum(1), 1)
    variances_SQ: Array = np.where(asked_SQ, 0.0, shares_SQ * (squares_SQ + ready_Q * mean_S[:, None]))
    return means_SQ, variances_SQ


def _helping(variances_Q: Array, open_Q: Array) -> list[int]:
    """Of the open questions those that hold half of the variance, at least one of `HELPING`; all, if few were left."""
    order = [int(row) for row in np.argsort(-variances_Q, kind="stable") if open_Q[row]]
    held = np.cumsum(variances_Q[order])
    least = len(variances_Q) // HELPING
    size = max(int(np.searchsorted(held, held[-1] / 2)) + 1, least)
    return sorted(order if held[-1] == 0 or len(order) - size < least else order[:size])
