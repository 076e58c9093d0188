"""What all margins sum to, estimated from the questions that were asked: a ratio estimate (Royall, 1970).

Where losses add up, a bitmap has come about the same part of the way from one bitmap to a narrower one on every
question. A question's margin is therefore expected at

    floor + b (ceiling - floor)

where b is that part over the questions asked. How far these depart from it says how far the others may: the variance
is taken to be proportional to ceiling - floor, but where these are closer than `CLOSEST`, or the wrong way round.
"""

import numpy as np

from switchq.posttraining.search.metric import Array

CLOSEST = 0.1
"""The least distance of floor and ceiling, as a part of the mean distance."""


def estimated_sum(margins_Q: Array, floor_Q: Array, ceiling_Q: Array) -> tuple[float, float]:
    """The sum of all margins and its standard error.

    Args:
        margins_Q: NaN where a question was not asked; at least two were.
        floor_Q: the margins of a narrower bitmap.
        ceiling_Q: those of a wider one.

    >>> estimated_sum(np.array([0.5, 2.0, np.nan]), np.zeros(3), np.array([1.0, 4.0, 6.0]))
    (5.5, 0.0)
    """
    asked_Q = ~np.isnan(margins_Q)
    spans_Q = ceiling_Q - floor_Q
    spans_Q = np.maximum(spans_Q, max(CLOSEST * float(np.abs(spans_Q).mean()), np.finfo(float).tiny))
    above_Q = (margins_Q - floor_Q)[asked_Q]
    seen, unseen = float(spans_Q[asked_Q].sum()), float(spans_Q[~asked_Q].sum())
    part = float(above_Q.sum()) / seen
    departures_Q = above_Q - part * spans_Q[asked_Q]
    variance = float((departures_Q**2 / spans_Q[asked_Q]).sum()) / (len(above_Q) - 1)
    total = float(margins_Q[asked_Q].sum() + floor_Q[~asked_Q].sum()) + part * unseen
    return total, float(np.sqrt(variance * unseen * (1 + unseen / seen)))
