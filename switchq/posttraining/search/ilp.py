"""Integer programming: if sensitivities add up, the best bitmap for a size is the solution of a small linear program.

    minimise    sum over units u and choices c of  score[u, c] x[u, c]
    subject to  sum over c of x[u, c] = 1          for every unit
                sum of cost[u, c] x[u, c] <= limit  for every limit
                x[u, c] in {0, 1}

as in HAWQ-V3 (Yao et al., ICML 2021, arXiv:2011.10680), solved exactly by HiGHS through `scipy.optimize.milp`.
Additivity is an assumption, so every solution is evaluated.

How a layer compares with others at one width is what sensitivities are good for; how widths compare is not, because a
score that is exact for small errors is off by another factor at each width. The uniform bitmaps, which every search
evaluates first, give these factors where the metric itself adds up: perplexity (its logarithm) and KL, not F1 and EM.
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse

from switchq.bitmap import Bitmap
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.space import Genome
from switchq.posttraining.search.study import Study

POINTS = 9
"""Limits, evenly spaced between the smallest bitmap and the widest uniform one."""

BISECTIONS = 5
"""Further limits around the point where the budget is used up."""


def solve(scores: Array, limits: Sequence[tuple[Array, float]]) -> tuple[int, ...] | None:
    """The choice of every unit with the least summed score; None if no choice keeps the limits.

    Args:
        scores: (units, choices), finite.
        limits: tables of costs (units, choices), each with the most that the chosen costs may sum to.
    """
    units, choices = scores.shape
    once = sparse.kron(sparse.eye_array(units), np.ones((1, choices)), format="csr")
    constraints = [optimize.LinearConstraint(once, 1, 1)]
    for costs, limit in limits:
        scale = float(np.abs(costs).max()) or 1.0
        constraints.append(optimize.LinearConstraint(costs.reshape(1, -1) / scale, -np.inf, limit / scale + 1e-9))
    found = optimize.milp(
        scores.ravel() * (1e3 / (float(np.abs(scores).max()) or 1.0)),
        integrality=np.ones(scores.size),
        bounds=optimize.Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    return None if found.x is None else tuple(int(row.argmax()) for row in found.x.reshape(units, choices))


def calibrated(scores: Array, losses: Sequence[float]) -> Array:
    """The scores with each width's multiplied so that they sum to what the uniform bitmap was seen to lose.

    A width at which nothing was seen to be lost takes the factor of the next narrower one. If nothing is lost at the
    narrowest one either, the scores are returned as they are.

    Args:
        scores: (units, choices), widest choice first, not negative.
        losses: what the uniform bitmap of each choice loses against full precision, in one unit that adds up.

    >>> calibrated(np.array([[0.0, 1.0, 4.0], [0.0, 3.0, 4.0]]), [0.0, 2.0, 16.0])
    array([[0. , 0.5, 8. ],
           [0. , 1.5, 8. ]])
    """
    sums, factors = scores.sum(0), np.ones(scores.shape[1])
    known = [choice for choice, loss in enumerate(losses) if sums[choice] > 0 and 0 < loss < np.inf]
    if not known or known[-1] < len(factors) - 1:
        return scores
    for choice in range(len(factors)):
        nearest = next(own for own in known if own >= choice)
        factors[choice] = losses[nearest] / sums[nearest]
    product: Array = scores * factors
    return product


def _uniform_losses(study: Study) -> list[float]:
    """What the uniform bitmap of each choice loses in margins (nats, for perplexity and KL), full precision first."""
    objective, layers = study.objective, len(study.space.names)
    full = objective.margins(Bitmap.stripe([study.space.choices[0]], layers)).sum()
    return [float(full - objective.margins(Bitmap.stripe([bits], layers)).sum()) for bits in study.space.choices]


def ilp(study: Study, scores: Array) -> None:
    """Evaluate the solutions for limits over the whole range, and close in on the smallest that keeps the budget.

    Args:
        study: the search.
        scores: (units, choices), additive.
    """
    space = study.space
    if not study.objective.metric.generates:
        scores = calibrated(scores, _uniform_losses(study))
    low = space.smallest(study.cost)
    high = study.price(Bitmap.stripe([space.widths[0]], len(space.names)))
    kept, broken = high, low
    for limit in np.linspace(high, low, POINTS):
        bitmap = space.bitmap(_solution(study, scores, float(limit)))
        if bitmap not in study.points:
            study.score(bitmap)
        if study.race(bitmap):
            kept = min(kept, float(limit))
    broken = max((float(limit) for limit in np.linspace(high, low, POINTS) if limit < kept), default=low)
    for _ in range(BISECTIONS):
        middle = (kept + broken) / 2
        bitmap = space.bitmap(_solution(study, scores, middle))
        if study.race(bitmap):
            kept = middle
            if bitmap not in study.points:
                study.score(bitmap)
        else:
            broken = middle
    if study.limits:
        limits = [(space.unit_costs(of), _above_fixed(study, of, limit)) for of, limit in study.limits.items()]
        found = solve(scores, limits)
        if found is not None:
            study.score(space.bitmap([space.choices[choice] for choice in found]))


def _solution(study: Study, scores: Array, limit: float) -> Genome:
    found = solve(scores, [(study.space.unit_costs(study.cost), _above_fixed(study, study.cost, limit))])
    assert found is not None, "the limits lie in the range of costs"
    return tuple(study.space.choices[choice] for choice in found)


def _above_fixed(study: Study, of: str, limit: float) -> float:
    return limit - (study.space.fixed_mb if of == "weight_mb" else 0.0)
