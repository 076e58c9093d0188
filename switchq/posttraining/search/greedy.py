"""Greedy search: from full precision, narrow one unit after the other, least sensitive first, while the budget holds.

`plain` evaluates every step on all questions. `fast` takes the same steps for a fixed share of those evaluations, which
are known beforehand: steps times questions. The order of the steps is known, too, so it takes a run of them together:
if that keeps the budget, so does every part of it. If not, bisection finds the first step that breaks the budget; that
one is refused, and the next run starts with a single step and doubles while it succeeds (Bentley and Yao, 1976). A test
asks only what is not clear from wider and narrower bitmaps (`switchq.posttraining.search.bracket`); the narrowest one
of all is evaluated first. What the share no longer pays for is refused; so is, by perplexity and KL, where every test
has its price, the rest of a width after a few refusals in a row.

Both end at the same bitmap if narrowing never helps any question (the metric is monotone) and the share suffices. A
real model is not quite monotone, and the two may part. Therefore the end of the path is checked on all questions. Where
it breaks the budget, bisection goes back along the path; and the steps that were refused are tried once more from the
end, until none is accepted. What is left then goes into points along the path, for F1 and EM chosen by questions
(`switchq.posttraining.search.fill`), for perplexity and KL by sensitivities (`switchq.posttraining.search.place`).
"""

from collections.abc import Callable, Iterator, Sequence

from switchq.bitmap import Bitmap
from switchq.posttraining.search.fill import fill_in
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.place import place
from switchq.posttraining.search.space import Genome
from switchq.posttraining.search.study import Study

Step = tuple[int, int]
"""A unit, and the width it is narrowed to."""

SHARE = 0.2
"""What part of plain greedy's question evaluations `fast` may spend."""

LEAST = 8
"""Evaluations on all questions that it may spend on a model of few steps, whatever their share."""

FILL = {"F1": 0.6, "EM": 0.6, "perplexity": 0.4, "KL": 0.4}
"""The part of the allowance that is kept for points along the path: less where every bitmap differs on every question,
so that finding the path takes more."""

FIRST = {"F1": 6, "EM": 6, "perplexity": 4, "KL": 4}
"""Evaluations on all questions that finding the path may take, whatever is kept."""

IN_A_ROW = 4
"""Refusals in a row at one width, by perplexity or KL, after which the rest of that width is refused unasked."""


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


def fast(study: Study, scores: Array, share: float = SHARE) -> Bitmap:
    """The same search for `share` of the evaluations at most, and points along its path for the front."""
    before = study.objective.evaluated[study.method]
    steps = _steps(study, scores)
    # the uniform bitmaps that plain greedy comes through may be known already
    evaluations = max(share * (len(steps) - len(study.space.widths)), LEAST)
    allowance = int(evaluations * study.objective.questions)
    metric, questions = study.objective.metric.name, study.objective.questions
    reserve = max(0, min(int(FILL[metric] * allowance), allowance - FIRST[metric] * questions))

    def left() -> int:
        return allowance - (study.objective.evaluated[study.method] - before)

    narrowest = Bitmap.stripe([study.space.widths[-1]], len(study.space.names))
    if study.objective.missing(narrowest) <= left():
        study.score(narrowest)
    path = [study.space.full]
    while len(more := _checked(study, path[-1], _ahead(path[-1], steps), left, reserve)) > 1:
        path += more[1:]
    study.path = [study.space.bitmap(genome) for genome in path]
    for end in (study.path[0], study.path[-1]):
        study.score(end)
    if study.objective.metric.generates:
        fill_in(study, study.path, left())
    elif narrowest in study.points:
        place(study, [*path, *_descent(path[-1], _ahead(path[-1], steps))], scores, left())
    return study.path[-1]


def _ahead(genome: Genome, steps: Sequence[Step]) -> list[Step]:
    """Those of `steps` that would narrow `genome`."""
    return [step for step in steps if genome[step[0]] > step[1]]


def _steps(study: Study, scores: Array) -> list[Step]:
    """All steps: widest first, and units from least to most sensitive at each width; ties in model order."""
    return [
        (unit, bits)
        for choice, bits in enumerate(study.space.choices[1:], 1)
        for unit in sorted(range(len(scores)), key=lambda unit: (scores[unit, choice], unit))
    ]


def _descent(genome: Genome, steps: Sequence[Step]) -> Iterator[Genome]:
    """What `genome` becomes by one step after the other, whatever that loses."""
    for step in steps:
        if genome[step[0]] > step[1]:
            genome = _narrow(genome, [step])
            yield genome


def _narrow(genome: Genome, steps: Sequence[Step]) -> Genome:
    widths = dict(enumerate(genome)) | dict(steps)
    return tuple(widths.values())


def _checked(study: Study, start: Genome, steps: Sequence[Step], left: Callable[[], int], reserve: int) -> list[Genome]:
    """The path from `start` by those of `steps` that keep the budget; its end does so on all questions.

    If it does not where inference says so, bisection goes back to a place on the path that does.
    """
    questions = study.objective.questions
    path = [start]
    for step in _accepted(study, start, steps, lambda: left() - reserve - questions):
        path.append(_narrow(path[-1], [step]))
    bitmaps = [study.space.bitmap(genome) for genome in path]
    passes, probe, fails = 0, len(path) - 1, len(path)
    while fails - passes > 1 and study.objective.missing(bitmaps[probe]) <= left():
        study.score(bitmaps[probe])
        passes, fails = (probe, fails) if study.verdicts[bitmaps[probe]] else (passes, probe)
        probe = (passes + fails) // 2
    return path[: passes + 1]


def _accepted(study: Study, start: Genome, steps: Sequence[Step], left: Callable[[], int]) -> list[Step]:
    """The steps that plain greedy would accept, one after the other, from `start` on.

    A step is refused, too, if there are not enough evaluations left to tell, or if as many as `IN_A_ROW` before it were
    at its width, while no refusal can be inferred: those left are more sensitive still.
    """
    accepted: list[Step] = []

    def keeps(count: int) -> bool:
        return study.bracket(study.space.bitmap(_narrow(start, [*accepted, *steps[:count]])), left())

    run, in_a_row = len(steps), 0
    while steps:
        passes, fails = 0, min(run, len(steps))
        if keeps(fails):
            accepted, steps, run = [*accepted, *steps[:fails]], steps[fails:], 2 * run
            continue
        while fails - passes > 1:
            middle = (passes + fails) // 2
            passes, fails = (middle, fails) if keeps(middle) else (passes, middle)
        (_, width), rest = steps[passes], steps[fails:]
        in_a_row = in_a_row + 1 if passes == 0 else 1
        if in_a_row >= IN_A_ROW and not study.objective.metric.generates:
            rest = [step for step in rest if step[1] != width]
        if not rest or rest[0][1] != width:
            in_a_row = 0
        accepted, steps, run = [*accepted, *steps[:passes]], rest, 1
    return accepted
