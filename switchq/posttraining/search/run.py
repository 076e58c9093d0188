"""The methods of a search, one after the other, each on what those before it have found."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from switchq.errors import UserError
from switchq.posttraining.search.evolution import Evolution
from switchq.posttraining.search.greedy import SHARE, fast, plain
from switchq.posttraining.search.ilp import ilp
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.objective import Objective, Scored
from switchq.posttraining.search.study import Study

Method = Literal["greedy", "greedy-plain", "ilp", "evolution"]

DEFAULT: tuple[Method, ...] = ("greedy", "ilp", "evolution")

RANKED = ("greedy", "greedy-plain", "ilp")
"""The methods that need sensitivities."""


def run_methods(
    study: Study,
    methods: Sequence[Method],
    ranking: Array | None,
    additive: Array | None,
    evolution: Evolution,
    started: Callable[[str], object] = lambda method: None,
    greedy_share: float = SHARE,
) -> dict[str, dict[str, Any]]:
    """Run `methods` in the order given, after the reference bitmaps.

    Args:
        study: where points and rows go.
        methods: which.
        ranking: (units, choices), to order by; needed for greedy search.
        additive: (units, choices), to add up; needed for integer programming.
        evolution: the settings of evolutionary search.
        started: called with the name of each method, and `references` first.
        greedy_share: what part of plain greedy's evaluations greedy search may spend.

    Returns:
        For each, what it took and what it found: `question_evaluations`, `cache_hits`, `seconds` of evaluating,
        `bitmaps` tried, `points` evaluated on all questions that none had found before, and `bitmap`, the smallest one
        of its own table rows that keeps the budget and the limits.

    Raises:
        UserError: full precision has no score that could drop.
    """
    records = {}
    for method in ("references", *methods):
        study.start(method)
        started(method)
        if method == "references":
            check_reference(study.objective)
            study.references()
        elif method == "evolution":
            evolution.run(study)
        elif ranking is None or additive is None:
            raise UserError(f"--method {method} needs --sensitivity FILE (`switchq sensitivity` writes it)")
        elif method == "ilp":
            ilp(study, additive)
        elif method == "greedy":
            fast(study, ranking, greedy_share)
        else:
            plain(study, ranking)
        records[method] = _record(study, method)
    return records


def check_reference(objective: Objective) -> None:
    """Make sure that full precision scores something: a drop is relative to it.

    Raises:
        UserError: it scores 0.
    """
    if objective.metric.generates and objective.full_figure == 0:
        raise UserError(
            f"at full precision the model's {objective.metric.name} on the search questions is 0, so that no relative "
            f"drop can be told: search by --metric perplexity, or train the model first"
        )


def _record(study: Study, method: str) -> dict[str, Any]:
    mine = {bitmap for name, bitmap, _ in study.written if name == method}
    kept = [point for bitmap, point in study.points.items() if bitmap in mine and study.keeps(bitmap)]
    best = min(kept, key=study.point, default=None)
    return {
        "question_evaluations": study.objective.evaluated[method],
        "cache_hits": study.hits[method],
        "seconds": study.objective.seconds[method],
        "bitmaps": len(mine),
        "points": sum(found == method for found in study.found_by.values()),
        "bitmap": None if best is None else list(best.bitmap),
    }


def spread(points: Sequence[Scored], count: int) -> list[Scored]:
    """At most `count` of `points`, evenly spaced, both ends among them if there are two or more."""
    if len(points) <= count:
        return list(points)
    if count < 2:
        return list(points[:count])
    picked = sorted({round(i * (len(points) - 1) / (count - 1)) for i in range(count)})
    return [points[i] for i in picked]
