"""Do two fronts differ by more than the search questions can tell? A paired bootstrap over questions (Efron, 1979).

A front is the best of many noisy figures, so its height is biased upwards, and the more so the more bitmaps were tried.
Each resample draws questions, the same for both searches, and chooses both fronts anew on them. The heights that were
chosen are then compared twice: on the questions drawn, and on those left out, which no choice has seen (the out-of-bag
estimate). Figures are compared at equal cost: the height of a front at a cost is the figure of its best point that
costs no more; where that is worse than the corner of the hypervolume, it counts as the corner's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.tried import Tried

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure, and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FrontDifference:
    """How much better the second front is than the first; positive is better, in the metric's unit unless said.

    Attributes:
        volume: the relative difference of hypervolumes (0.01 is 1 % more).
        height: the difference of heights, averaged over all costs that both fronts reach, up to the corner's.
        held_out: the same on questions that neither front was chosen by.
        below: how far the second front lies below the first at most, 0 or more.
        above: how far above it at most, 0 or more. Fronts of equal worth lie below each other by chance; the two
            together say whether one does so by more.
        questions: how many were resampled.
    """

    volume: Estimate
    height: Estimate
    held_out: Estimate
    below: Estimate
    above: Estimate
    questions: int


def compare_fronts(
    first: Tried, second: Tried, *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> FrontDifference:
    """The difference of two fronts over the same questions, with percentile intervals.

    Args:
        first: what to compare with.
        second: what is compared.
        confidence: of the intervals.
        seed: of the resampling.
        resamples: how many; the few that leave no question out are dropped.

    Raises:
        ValueError: other questions or another metric, fewer than two questions, or no cost that both fronts reach.
    """
    questions = len(first.weights_Q)
    if first.metric != second.metric or not np.array_equal(first.weights_Q, second.weights_Q):
        raise ValueError("the two searches did not ask the same questions")
    if questions < 2:
        raise ValueError("there must be at least two questions")
    grid_G = np.union1d(first.costs_P, second.costs_P)
    grid_G = grid_G[grid_G < first.corner[0]]
    widths_G = np.diff(grid_G, append=first.corner[0])
    reached_G = grid_G >= max(first.costs_P.min(), second.costs_P.min())
    if not reached_G.any():
        raise ValueError("there is no cost that both fronts reach")
    drawn_RQ = np.random.default_rng(seed).multinomial(questions, np.full(questions, 1 / questions), resamples)
    drawn_RQ = drawn_RQ[(drawn_RQ == 0).any(1)].astype(float)
    whole_1Q = np.ones((1, questions))

    def estimates(chosen_RQ: Array, scored_RQ: Array) -> dict[str, Array]:
        """Each figure on R resamples."""
        one_RG, other_RG = (_heights(tried, first.corner[1], grid_G, chosen_RQ, scored_RQ) for tried in (first, second))
        better_RG = (other_RG - one_RG)[:, reached_G]
        return {
            "volume": _growth(one_RG @ widths_G, other_RG @ widths_G),
            "height": better_RG @ widths_G[reached_G] / widths_G[reached_G].sum(),
            "below": np.clip(-better_RG, 0, None).max(1),
            "above": np.clip(better_RG, 0, None).max(1),
        }

    found, resampled = estimates(whole_1Q, whole_1Q), estimates(drawn_RQ, drawn_RQ)
    held_out_R = estimates(drawn_RQ, (drawn_RQ == 0).astype(float))["height"]
    figures = {name: _estimate(float(found[name][0]), values_R, confidence) for name, values_R in resampled.items()}
    held_out = _estimate(float(held_out_R.mean()), held_out_R, confidence)
    return FrontDifference(**figures, held_out=held_out, questions=questions)


def _growth(one_R: Array, other_R: Array) -> Array:
    """other / one - 1; none from nothing to nothing, infinite from nothing to something."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(one_R == other_R, 0.0, other_R / one_R - 1)


def _estimate(value: float, resampled_R: Array, confidence: float) -> Estimate:
    with np.errstate(invalid="ignore"):
        bounds = np.percentile(resampled_R, (50 * (1 - confidence), 50 * (1 + confidence)))
    low, high = np.where(np.isnan(bounds), np.inf, bounds)  # between two infinite ones
    return Estimate(value, float(low), float(high))


def _heights(tried: Tried, worst: float, grid_G: Array, chosen_RQ: Array, scored_RQ: Array) -> Array:
    """(R, G): by how much the front's loss at each cost is below `worst`; 0 where it is not, or there is no point.

    Args:
        tried: the points.
        worst: the loss of the corner.
        grid_G: rising costs.
        chosen_RQ: how often each question counts in the choice of the front's points.
        scored_RQ: how often it counts in their losses.
    """
    order_P = np.argsort(tried.costs_P, kind="stable")
    chosen_RP = tried.losses(chosen_RQ)[:, order_P]
    scored_RP = chosen_RP if scored_RQ is chosen_RQ else tried.losses(scored_RQ)[:, order_P]
    heights_RP = np.clip(worst - np.take_along_axis(scored_RP, _best_so_far(chosen_RP), axis=1), 0, None)
    reached_G = np.searchsorted(tried.costs_P[order_P], grid_G, side="right")
    return np.pad(heights_RP, ((0, 0), (1, 0)))[:, reached_G]


def _best_so_far(losses_RP: Array) -> NDArray[np.intp]:
    """(R, P): the place of the least loss among those up to each place, the first of equals."""
    least_RP = np.minimum.accumulate(losses_RP, axis=1)
    fresh_RP = np.diff(least_RP, axis=1, prepend=np.inf) < 0
    places_RP: NDArray[np.intp] = np.maximum.accumulate(np.where(fresh_RP, np.arange(losses_RP.shape[1]), 0), axis=1)
    return places_RP
