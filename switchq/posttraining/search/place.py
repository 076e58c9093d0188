"""Points along a path of bitmaps where losses add up, by perplexity or KL: each where the front will gain most.

Between two bitmaps that were evaluated, the loss is expected to grow as the sum of sensitivities does: what part of
the way a bitmap has come they tell, how far it is was measured. One that was asked a part of the questions is
evaluated as well as these tell (`switchq.posttraining.search.estimate`). Next comes the bitmap that would add most to
the hypervolume for each question that it has yet to be asked.
"""

from collections.abc import Sequence

import numpy as np

from switchq.posttraining.search.estimate import estimated_sum
from switchq.posttraining.search.gain import gains
from switchq.posttraining.search.metric import WORST, Array
from switchq.posttraining.search.objective import SMALLEST_LOOK
from switchq.posttraining.search.report import reference_point
from switchq.posttraining.search.space import Genome
from switchq.posttraining.search.study import Study

LEAST = 1e-3
"""What a step of no sensitivity counts, as a part of the mean step."""


def place(study: Study, path: Sequence[Genome], scores: Array, allowance: int) -> None:
    """Spend at most `allowance` question evaluations on points along `path`, both of whose ends are points already.

    Args:
        study: the search.
        path: each narrower than the one before.
        scores: (units, choices), sensitivities.
        allowance: question evaluations.
    """
    bitmaps, corner = [study.space.bitmap(genome) for genome in path], reference_point(study)
    travelled_S = _travelled(study, path, scores)
    while True:
        missing_S = np.array([study.objective.missing(bitmap) for bitmap in bitmaps])
        values_SQ = np.clip(np.stack([study.objective.known(bitmap) for bitmap in bitmaps]), -WORST, WORST)
        gains_S = gains(study, bitmaps, _expected_sums(values_SQ, travelled_S), corner)
        gains_S[(missing_S == 0) | (missing_S > allowance)] = 0.0
        step = int((gains_S / np.maximum(missing_S, 1)).argmax())
        if not gains_S[step] > 0:
            return
        allowance -= int(missing_S[step])
        study.score(bitmaps[step])


def _expected_sums(values_SQ: Array, travelled_S: Array) -> Array:
    """(S,): what the values of each bitmap are expected to sum to.

    Args:
        values_SQ: of S bitmaps on Q questions, NaN where one was not asked; the first and last were asked all.
        travelled_S: see `_travelled`.
    """
    asked_S = (~np.isnan(values_SQ)).sum(1)
    whole = np.flatnonzero(asked_S == values_SQ.shape[1])
    sums = dict(zip(whole, values_SQ[whole].sum(1)))
    for step in np.flatnonzero((asked_S >= SMALLEST_LOOK) & (asked_S < values_SQ.shape[1])):
        after = int(np.searchsorted(whole, step))
        sums[step] = estimated_sum(values_SQ[step], values_SQ[whole[after - 1]], values_SQ[whole[after]])[0]
    known = sorted(sums)
    expected_S: Array = np.interp(travelled_S, travelled_S[known], [sums[step] for step in known])
    return expected_S


def _travelled(study: Study, path: Sequence[Genome], scores: Array) -> Array:
    """(S,): how far each bitmap has come, in summed sensitivities; growing."""
    sums_S = np.array(
        [sum(scores[unit, study.space.choices.index(bits)] for unit, bits in enumerate(genome)) for genome in path]
    )
    steps_S = np.maximum(np.diff(sums_S, prepend=sums_S[0]), 0.0)
    travelled_S: Array = np.cumsum(steps_S + (LEAST * float(steps_S.mean()) or 1.0))
    return travelled_S
