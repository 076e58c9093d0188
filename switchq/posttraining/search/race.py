"""Does a bitmap keep the budget? A race over growing prefixes of the questions (Maron and Moore, 1993).

After each stage the mean margin of the questions seen has a confidence interval: +-z standard errors, for a sample
drawn without replacement. If it excludes zero the race is over; after the last stage the sum itself decides, exactly.
One made-up question with the worst (best) possible margin is added below (above), because a handful of questions that
all came out alike says little about the rest. An early decision can be wrong, most likely (about once in a thousand by
the normal approximation) for a bitmap right at the budget.
"""

import numpy as np

from switchq.bitmap import Bitmap
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.objective import Objective, keeps

Z = 3.0


def race(objective: Objective, bitmap: Bitmap) -> tuple[bool, range]:
    """Whether `bitmap` keeps the budget, and the questions that it took to tell."""
    worst, best = objective.extremes()
    for look in objective.looks[:-1]:
        margins = objective.margins(bitmap, look)
        if _bound(margins, worst, objective.questions, -1) > 0:
            return True, look
        if _bound(margins, best, objective.questions, +1) < 0:
            return False, look
    return keeps(objective.margins(bitmap)), objective.all


def _bound(margins: Array, extreme: float, population: int, side: int) -> float:
    """Lower (side -1) or upper (+1) confidence bound of the mean margin over the whole population."""
    padded = np.append(margins, min(extreme, float(margins.min())) if side < 0 else max(extreme, float(margins.max())))
    unseen = 1 - len(margins) / population
    error = float(padded.std(ddof=1)) * np.sqrt(unseen / len(padded))
    return float(padded.mean()) + side * Z * error
