"""Greedy search: from full precision, narrow one unit after the other, least sensitive first, while the budget holds.

`plain` evaluates every step on all questions. `fast` takes the same steps with few evaluations. The order of the steps
is known beforehand, so it narrows a run of units together: if that keeps the budget, so does every part of it. If not,
bisection finds the first unit that breaks the budget; that one is refused, and the next run starts with a single unit
and doubles while it succeeds (Bentley and Yao, 1976). A test is a race over the questions, not an evaluation on all.

Both end at the same bitmap if narrowing never helps the metric (the metric is monotone) and no race is decided wrongly.
Neither is certain on a real model; where a narrower layer happens to help, the two may part. The end of the path is
checked on all questions and walked back as far as needed.
"""

import heapq

from switchq.bitmap import Bitmap
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.space import Genome
from switchq.posttraining.search.study import Study

ALLOWANCE = 5
"""`fast` spends no more on points along its path than what is left of a fifth of plain greedy's evaluations."""

NEGLIGIBLE = 1e-3
"""Share of the area between the path's ends below which a gap between two points is left alone."""


def plain(study: Study, scores: Array) -> Bitmap:
    """Greedy search with every step on all questions; `scores` are (units, choices), a ranking."""
    genome = study.space.full
    for bits, order in _steps(study, scores):
        for unit in order:
            candidate = _narrow(genome, [unit], bits)
            bitmap = study.space.bitmap(candidate)
            study.score(bitmap)
            if study.verdicts[bitmap]:
                genome = candidate
    return study.space.bitmap(genome)


def fast(study: Study, scores: Array) -> Bitmap:
    """The same search with few evaluations, and points along its path for the front."""
    before = study.objective.evaluated[study.method]
    path = [study.space.full]
    for bits, order in _steps(study, scores):
        for unit in _accepted(study, path[-1], order, bits):
            path.append(_narrow(path[-1], [unit], bits))
    bitmaps = [study.space.bitmap(genome) for genome in path]
    end = _last_within(study, bitmaps)
    whole = len(study.space.units) * len(study.space.widths) * study.objective.questions
    left = whole // ALLOWANCE - (study.objective.evaluated[study.method] - before)
    study.path = bitmaps[: end + 1]
    fill_in(study, left)
    return bitmaps[end]


def _steps(study: Study, scores: Array) -> list[tuple[int, list[int]]]:
    """Each width, widest first, with the units from least to most sensitive at it; ties in model order."""
    return [
        (bits, sorted(range(len(scores)), key=lambda unit: (scores[unit, choice], unit)))
        for choice, bits in enumerate(study.space.choices[1:], 1)
    ]


def _narrow(genome: Genome, units: list[int], bits: int) -> Genome:
    return tuple(bits if unit in units else width for unit, width in enumerate(genome))


def _accepted(study: Study, genome: Genome, order: list[int], bits: int) -> list[int]:
    """The units of `order` that plain greedy would narrow to `bits`, one after the other, from `genome` on."""
    accepted: list[int] = []
    run = len(order)
    while order:
        part = order[:run]
        if _keeps(study, _narrow(genome, accepted + part, bits)):
            accepted, order, run = accepted + part, order[run:], 2 * run
            continue
        passes, fails = 0, len(part)
        while fails - passes > 1:
            middle = (passes + fails) // 2
            if _keeps(study, _narrow(genome, accepted + part[:middle], bits)):
                passes = middle
            else:
                fails = middle
        accepted, order, run = accepted + part[:passes], order[fails:], 1
    return accepted


def _keeps(study: Study, genome: Genome) -> bool:
    """Whether the budget holds; what follows from earlier answers, the metric being monotone, is not evaluated."""
    bitmap = study.space.bitmap(genome)
    if bitmap not in study.verdicts:
        for other, kept in study.verdicts.items():
            pairs = list(zip(other, bitmap))
            if kept and all(narrow <= wide for narrow, wide in pairs):
                return True
            if not kept and all(narrow >= wide for narrow, wide in pairs):
                return False
    return study.race(bitmap, monotone=True)


def _last_within(study: Study, path: list[Bitmap]) -> int:
    """The last step of the path that keeps the budget on all questions; found by bisection where the end does not."""
    study.score(path[-1])
    if study.verdicts[path[-1]] or len(path) == 1:
        return len(path) - 1
    kept, broken = 0, len(path) - 1
    while broken - kept > 1:
        middle = (kept + broken) // 2
        study.score(path[middle])
        if study.verdicts[path[middle]]:
            kept = middle
        else:
            broken = middle
    return kept


def fill_in(study: Study, allowance: int, negligible: float = NEGLIGIBLE) -> None:
    """Spend `allowance` question evaluations on points along the path of `fast`.

    Each goes where the front is least known: into the largest rectangle between neighbours.

    Between two points of a monotone path the front cannot leave the rectangle that they span, so that a gap without
    height needs no point.
    """
    path = study.path
    if not path:
        return
    spent = study.objective.evaluated[study.method]
    points = {step: study.point(study.score(path[step])) for step in sorted({0, len(path) - 1})}

    def gap(begin: int, end: int) -> float:
        (cost, loss), (other_cost, other_loss) = points[begin], points[end]
        return abs(cost - other_cost) * abs(loss - other_loss)

    gaps = [(-gap(0, len(path) - 1), 0, len(path) - 1)]
    smallest = negligible * -gaps[0][0]
    while gaps and study.objective.evaluated[study.method] - spent + study.objective.questions <= allowance:
        size, begin, end = heapq.heappop(gaps)
        if -size <= smallest or end - begin < 2:
            continue
        middle = (begin + end) // 2
        points[middle] = study.point(study.score(path[middle]))
        for one, other in ((begin, middle), (middle, end)):
            heapq.heappush(gaps, (-gap(one, other), one, other))
