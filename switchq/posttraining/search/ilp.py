"""Integer programming: if sensitivities add up, the best bitmap for a size is the solution of a small linear program.

    minimise    sum over units u and choices c of  score[u, c] x[u, c]
    subject to  sum over c of x[u, c] = 1          for every unit
                sum of cost[u, c] x[u, c] <= limit  for every limit
                x[u, c] in {0, 1}

as in HAWQ-V3 (Yao et al., ICML 2021, arXiv:2011.10680), solved exactly by HiGHS through `scipy.optimize.milp`.
Additivity is an assumption, so every solution is evaluated.
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


def ilp(study: Study, scores: Array) -> None:
    """Evaluate the solutions for limits over the whole range, and close in on the smallest that keeps the budget.

    Args:
        study: the search.
        scores: (units, choices), additive.
    """
    space = study.space
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
