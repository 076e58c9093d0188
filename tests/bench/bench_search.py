"""Plain greedy search against the fast one: question evaluations, seconds, the hypervolume of both fronts, both ends.

python tests/bench/bench_search.py --ckpt last.ckpt --sensitivity sensitivity.json --budget 0.05
python tests/bench/bench_search.py --model PATH --sensitivity sensitivity.json --data train.json --metric perplexity

Each runs on an objective of its own, so that neither profits from the other's cache.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from sidebyside import Row, parser, prepare, report

from switchq.commands.quiet import quiet
from switchq.commands.subject import load_subject
from switchq.data.scoring_set import ScoringSet
from switchq.posttraining.search import Metric, Objective, Study, search_space
from switchq.posttraining.search.front import covers, hypervolume
from switchq.posttraining.search.greedy import fast, plain
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.measure import ModelMeasure
from switchq.posttraining.search.report import reference_point
from switchq.posttraining.search.scores import pick_score, unit_scores
from switchq.posttraining.search.trials import Trials
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
    points = [[one.study.point(scored) for scored in one.study.points.values()] for one in (slow, quick)]
    kept = [
        [one.study.point(scored) for scored in one.study.points.values() if one.study.verdicts[scored.bitmap]]
        for one in (slow, quick)
    ]
    corner = reference_point(slow.study)
    report(
        f"Greedy search, {arguments.metric}, budget {arguments.budget:g}",
        rows,
        arguments,
        question_evaluations={name: one.evaluations for name, one in names.items()},
        share=f"{share:.3f}, <= {SHARE:.2f} {'met' if share <= SHARE else 'MISSED'}",
        hypervolume={name: hypervolume(one, corner) for name, one in zip(names, points)},
        hypervolume_within_budget={name: hypervolume(one, corner) for name, one in zip(names, kept)},
        same_bitmap=slow.end == quick.end,
        average_bits={name: slow.study.space.average_bits(one.end) for name, one in names.items()},
        fast_end_on_or_above_the_plain_front=covers(kept[1], [slow.study.point(slow.study.points[slow.end])]),  # type: ignore[index]
    )
    return share


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
    study.start("greedy")
    end = method(study, scores)
    return Greedy(study, end, objective.evaluated["greedy"], objective.seconds["greedy"])


if __name__ == "__main__":
    sys.exit(0 if main() <= SHARE else 1)
