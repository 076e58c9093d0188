"""Greedy search: from full precision, narrow one unit after the other, least sensitive first, while the budget holds.

`plain` evaluates every step on all questions. `fast` takes the same steps with few evaluations. The order of the steps
is known beforehand, so it takes a run of steps together: if that keeps the budget, so does every part of it. If not,
bisection finds the first step that breaks the budget; that one is refused, and the next run starts with a single step
and doubles while it succeeds (Bentley and Yao, 1976). A test asks only what is not clear from wider and narrower
bitmaps (`switchq.posttraining.search.bracket`); the narrowest one of all is evaluated first.

Both end at the same bitmap if narrowing never helps any question (the metric is monotone). A real model is not quite
monotone, and the two may part. Therefore the end of the path is checked on all questions. Where it breaks the budget,
what that has told goes into walking the path's steps again; and while there are evaluations left, the steps that were
refused are tried once more from the end.
"""

import heapq
from collections.abc import Sequence

from switchq.bitmap import Bitmap
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.space import Genome
from switchq.posttraining.search.study import Study

Step = tuple[int, int]
"""A unit, and the width it is narrowed to."""

ALLOWANCE = 5
"""`fast` spends no more on what its end does not need than what is left of a fifth of plain greedy's evaluations."""

RETRY = 3
"""Trying refused steps again has to leave room for so many evaluations on all questions."""

NEGLIGIBLE = 1e-3
"""Share of the area between the path's ends below which a gap between two points is left alone."""


def plain(study: Study, scores: Array) -> Bitmap:
    """Greedy search with every step on all questions; `scores` are (units, choices), a ranking."""
    genome = study.space.full
    for step in _steps(study, scores):
        candidate = _narrow(genome, [step])
        bitmap = study.space.bitmap(candidate)
        study.score(bitmap)
        if study.verdicts[bitmap]:
            genome = candidate
    return study.space.bitmap(genome)


def fast(study: Study, scores: Array) -> Bitmap:
    """The same search with few evaluations, and points along its path for the front."""
    before = study.objective.evaluated[study.method]
    steps = _steps(study, scores)

    def left() -> int:
        return len(steps) * study.objective.questions // ALLOWANCE - (study.objective.evaluated[study.method] - before)

    study.score(Bitmap.stripe([study.space.widths[-1]], len(study.space.names)))
    path = _checked(study, study.space.full, steps)
    while left() >= RETRY * study.objective.questions:
        refused = [step for step in steps if path[-1][step[0]] > step[1]]
        more = _checked(study, path[-1], refused)
        if len(more) == 1:
            break
        path += more[1:]
    study.path = [study.space.bitmap(genome) for genome in path]
    fill_in(study, left())
    return study.path[-1]


def _steps(study: Study, scores: Array) -> list[Step]:
    """All steps: widest first, and units from least to most sensitive at each width; ties in model order."""
    return [
        (unit, bits)
        for choice, bits in enumerate(study.space.choices[1:], 1)
        for unit in sorted(range(len(scores)), key=lambda unit: (scores[unit, choice], unit))
    ]


def _narrow(genome: Genome, steps: Sequence[Step]) -> Genome:
    widths = dict(enumerate(genome)) | dict(steps)
    return tuple(widths.values())


def _checked(study: Study, start: Genome, steps: Sequence[Step]) -> list[Genome]:
    """The path from `start` by those of `steps` that keep the budget; the end does so on all questions."""
    while True:
        steps = _accepted(study, start, steps)
        path = [start]
        for step in steps:
            path.append(_narrow(path[-1], [step]))
        end = study.space.bitmap(path[-1])
        study.score(end)
        if study.verdicts[end] or not steps:
            return path


def _accepted(study: Study, start: Genome, steps: Sequence[Step]) -> list[Step]:
    """The steps that plain greedy would accept, one after the other, from `start` on."""
    accepted: list[Step] = []

    def keeps(count: int) -> bool:
        return study.bracket(study.space.bitmap(_narrow(start, [*accepted, *steps[:count]])))

    run = len(steps)
    while steps:
        passes, fails = 0, min(run, len(steps))
        if keeps(fails):
            accepted, steps, run = [*accepted, *steps[:fails]], steps[fails:], 2 * run
            continue
        while fails - passes > 1:
            middle = (passes + fails) // 2
            passes, fails = (middle, fails) if keeps(middle) else (passes, middle)
        accepted, steps, run = [*accepted, *steps[:passes]], steps[fails:], 1
    return accepted


def fill_in(study: Study, allowance: int, negligible: float = NEGLIGIBLE) -> None:
    """Spend `allowance` question evaluations on points along the path of `fast`.

    Each goes where the front is least known: into the largest rectangle between neighbours, and there to the step of
    its middle half that has been asked most already. Between two points of a monotone path the front cannot leave the
    rectangle that they span, so that a gap without height needs no point.
    """
    path = study.path
    if not path:
        return
    known = [step for step, bitmap in enumerate(path) if step in (0, len(path) - 1) or bitmap in study.points]
    points = {step: study.point(study.score(path[step])) for step in known}
    gaps: list[tuple[float, int, int]] = []

    def add(begin: int, end: int) -> None:
        (cost, loss), (other_cost, other_loss) = points[begin], points[end]
        heapq.heappush(gaps, (-abs(cost - other_cost) * abs(loss - other_loss), begin, end))

    for begin, end in zip(known, known[1:]):
        add(begin, end)
    (low, worst), (high, best) = points[len(path) - 1], points[0]
    smallest = negligible * abs(high - low) * abs(worst - best)
    while gaps:
        size, begin, end = heapq.heappop(gaps)
        if -size <= smallest or end - begin < 2:
            continue
        quarter = (end - begin) // 4
        inner = range(max(begin + quarter, begin + 1), min(end - quarter, end - 1) + 1)
        missing = {step: study.objective.missing(path[step]) for step in inner}
        step = min(inner, key=lambda step: (missing[step], abs(2 * step - begin - end)))
        if missing[step] > allowance:
            continue
        allowance -= missing[step]
        points[step] = study.point(study.score(path[step]))
        add(begin, step)
        add(step, end)
