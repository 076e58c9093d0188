"""Plain greedy search against the fast one: question evaluations, seconds, both ends, and how far the fronts differ.

python tests/bench/bench_search.py --ckpt last.ckpt --sensitivity sensitivity.json --budget 0.05
python tests/bench/bench_search.py --model PATH --sensitivity sensitivity.json --data train.json --metric perplexity

Each runs on an objective of its own, after the uniform and striped bitmaps, so that neither profits from the other's
cache. The differences of the fronts have paired bootstrap intervals over the questions, as `switchq compare` gives them
for two finished searches. `oracle` is the front of as many points of plain greedy's as its share would pay for, chosen
with hindsight: no search that evaluates no more of these bitmaps can have a larger one.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sidebyside import Row, parser, prepare, report

from switchq.commands.quiet import quiet
from switchq.commands.subject import load_subject
from switchq.data.scoring_set import ScoringSet
from switchq.posttraining.search import Metric, Objective, Study, search_space
from switchq.posttraining.search.front import Point, covers, hypervolume, pareto
from switchq.posttraining.search.fronts import compare_fronts
from switchq.posttraining.search.greedy import fast, plain
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.measure import ModelMeasure
from switchq.posttraining.search.report import reference_point
from switchq.posttraining.search.scores import pick_score, unit_scores
from switchq.posttraining.search.study import references
from switchq.posttraining.search.trials import Trials
from switchq.posttraining.search.tried import Tried
from switchq.posttraining.sensitivity import Sensitivity

SHARE = 0.2
"""The most of plain greedy's question evaluations that the fast one may take."""


@dataclass(frozen=True)
class Greedy:
    """What one of the two came to."""

    study: Study
    end: tuple[int, ...]
    evaluations: int
    seconds: float


def main(argv: list[str] | None = None) -> float:
    """Measure, print and write; returns the ratio of question evaluations."""
    options = parser(__doc__)
    options.add_argument("--ckpt", default=None, help="checkpoint of `switchq fit`")
    options.add_argument("--model", default=None, help="instead of a checkpoint: a plain model")
    options.add_argument("--sensitivity", required=True, help="file of `switchq sensitivity`")
    options.add_argument("--score", default=None, help="which of its scores")
    options.add_argument("--data", default=None, help="training questions; the held-out ones of a checkpoint")
    options.add_argument("--questions", type=int, default=200)
    options.add_argument("--metric", choices=("F1", "EM", "perplexity", "KL"), default="F1")
    options.add_argument("--budget", type=float, default=0.3)
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--max_new_tokens", type=int, default=None)
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    slow, quick = (_run(method, arguments) for method in (plain, fast))
    names = {"greedy, plain": slow, "greedy, fast": quick}
    rows = [Row(name, one.seconds, ratio := one.seconds / slow.seconds, ratio, ratio, 1) for name, one in names.items()]
    share = quick.evaluations / slow.evaluations
    corner = reference_point(slow.study)
    points, kept = {}, {}
    for name, one in names.items():
        points[name] = [one.study.point(scored) for scored in one.study.points.values()]
        kept[name] = [
            one.study.point(scored) for bitmap, scored in one.study.points.items() if one.study.verdicts[bitmap]
        ]
    paid = int(SHARE * slow.evaluations / slow.study.objective.questions) + len(references(slow.study.space.widths))
    difference = compare_fronts(Tried.of_study(slow.study), Tried.of_study(quick.study))
    report(
        f"Greedy search, {arguments.metric}, budget {arguments.budget:g}",
        rows,
        arguments,
        question_evaluations={name: one.evaluations for name, one in names.items()},
        share=f"{share:.3f}, <= {SHARE:.2f} {'met' if share <= SHARE else 'MISSED'}",
        hypervolume={name: hypervolume(of, corner) for name, of in points.items()}
        | {f"oracle, {paid} of plain's points": best_volume(points["greedy, plain"], paid, corner)},
        hypervolume_within_budget={name: hypervolume(of, corner) for name, of in kept.items()},
        fast_better_by=asdict(difference),
        same_bitmap=slow.end == quick.end,
        average_bits={name: slow.study.space.average_bits(one.end) for name, one in names.items()},
        fast_end_on_or_above_the_plain_front=covers(
            kept["greedy, fast"], [slow.study.point(slow.study.points[slow.end])]
        ),
    )
    return share


def best_volume(points: Sequence[Point], count: int, corner: Point) -> float:
    """The largest hypervolume of `count` of `points` (dynamic programming over the front, from its costly end)."""
    front = pareto(points, lambda point: point)
    best = np.zeros((count + 1, len(front)))  # of so many points, the cheapest of which is this one
    for chosen in range(1, count + 1):
        for place, (cost, loss) in enumerate(front):
            height = corner[1] - loss
            alone = (corner[0] - cost) * height
            more = [
                (front[after][0] - cost) * height + best[chosen - 1, after]
                for after in range(place + 1, len(front) if chosen > 1 else 0)
            ]
            best[chosen, place] = max([alone, *more])
    return float(best[count].max())


def _run(method: Any, arguments: Any) -> Greedy:
    subject = load_subject(arguments.ckpt, arguments.model)
    subject.model.to(arguments.device)  # type: ignore[arg-type]
    drawn = subject.training_questions(arguments.data, arguments.questions)
    order = np.random.default_rng(0).permutation(len(drawn))
    asked = ScoringSet(
        "search questions",
        questions=[drawn[i] for i in order],
        prompt=subject.prompt,
        batch_size=arguments.batch,
        max_new_tokens=arguments.max_new_tokens or subject.max_answer_tokens,
        max_length=subject.data.get("max_length"),
    )
    space = search_space(subject.model, subject.widths)
    metric = Metric(arguments.metric)
    measure = ModelMeasure(subject.model, subject.tokenizer, asked, metric)
    journal = SearchJournal(None, {"key": ""})
    objective = Objective(measure, len(space.names), len(drawn), metric, arguments.budget, journal)
    study = Study(space, objective, Trials(None, journal))
    sensitivity = Sensitivity.read(arguments.sensitivity)
    scores = unit_scores(space, sensitivity, pick_score(sensitivity, arguments.score), additive=False)
    if metric.generates and objective.full_figure == 0:
        raise SystemExit("full precision scores 0: nothing can drop")
    study.start("references")
    study.references()
    study.start("greedy")
    end = method(study, scores)
    return Greedy(study, end, objective.evaluated["greedy"], objective.seconds["greedy"])


if __name__ == "__main__":
    sys.exit(0 if main() <= SHARE else 1)
