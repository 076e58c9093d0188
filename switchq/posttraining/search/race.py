"""Does a bitmap keep the budget? A race over growing prefixes of the questions (Maron and Moore, 1993).

After each stage the mean margin of the questions seen has a confidence interval: +-z standard errors, for a sample
drawn without replacement. If it excludes zero the race is over; after the last stage the sum itself decides, exactly.
One made-up question with the worst (best) possible margin is added below (above), because a handful of questions that
all came out alike says little about the rest. An early decision can be wrong, most likely (about once in a thousand by
the normal approximation) for a bitmap right at the budget.
"""

from collections.abc import Sequence

import numpy as np

from switchq.bitmap import Bitmap
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.objective import Objective, keeps

Z = 3.0


def race(
    objective: Objective, bitmap: Bitmap, wider: Sequence[Bitmap] = (), fragile: int | None = None
) -> tuple[bool, tuple[int, ...]]:
    """Whether `bitmap` keeps the budget, and the blocks of questions that it took to tell.

    Args:
        objective: the metric and the budget.
        bitmap: to be judged.
        wider: bitmaps known on all questions, wider than this one layer by layer. Where the metric is monotone, it
            loses on the questions not seen yet what they lose at least, and is refused as soon as that is too much.
        fragile: with `wider`, a block to look at before all others: one in which bitmaps like this one lost.
    """
    worst, best = objective.extremes()
    ceilings = [objective.margins(one) for one in wider]
    if fragile is not None and ceilings and _hopeless(objective, bitmap, (fragile,), ceilings):
        return False, (fragile,)
    for blocks in objective.looks[:-1]:
        margins = objective.margins(bitmap, blocks)
        if _bound(margins, worst, objective.questions, -1) > 0:
            return True, tuple(blocks)
        if _bound(margins, best, objective.questions, +1) < 0:
            return False, tuple(blocks)
        seen = tuple(blocks) if fragile is None or fragile in blocks or not ceilings else (*blocks, fragile)
        if _hopeless(objective, bitmap, seen, ceilings):
            return False, seen
    return keeps(objective.margins(bitmap)), tuple(objective.blocks)


def most_lost(objective: Objective, bitmap: Bitmap, blocks: Sequence[int], wider: Sequence[Bitmap]) -> int:
    """The block in which `bitmap` lost most against the nearest of `wider`, by the sum of margins."""
    nearest = min((objective.margins(one) for one in wider), key=lambda margins: float(margins.sum()))
    lost = {
        block: float((nearest[objective.rows([block])] - objective.margins(bitmap, [block])).sum()) for block in blocks
    }
    return max(lost, key=lambda block: lost[block])


def _hopeless(objective: Objective, bitmap: Bitmap, blocks: Sequence[int], ceilings: Sequence[Array]) -> bool:
    """Whether the margins sum to less than zero if unseen questions do as they do at a ceiling, but for gains as often
    as among those seen: a real model is only nearly monotone."""
    margins, seen = objective.margins(bitmap, blocks), objective.rows(blocks)
    for ceiling in ceilings:
        unseen = float(ceiling.sum() - ceiling[seen].sum())
        gains = float(np.maximum(margins - ceiling[seen], 0).mean()) * (len(ceiling) - len(seen))
        if float(margins.sum()) + unseen + gains < -1e-6:
            return True
    return False


def _bound(margins: Array, extreme: float, population: int, side: int) -> float:
    """Lower (side -1) or upper (+1) confidence bound of the mean margin over the whole population."""
    padded = np.append(margins, min(extreme, float(margins.min())) if side < 0 else max(extreme, float(margins.max())))
    unseen = 1 - len(margins) / population
    error = float(padded.std(ddof=1)) * np.sqrt(unseen / len(padded))
    return float(padded.mean()) + side * Z * error
