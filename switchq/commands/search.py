"""`switchq search`: from sensitivities to a front of mixed-precision bitmaps, and the one that a budget allows."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from switchq import parallel
from switchq.bitmap import Bitmap
from switchq.commands.quiet import quiet
from switchq.commands.search_live import Live, live_bar
from switchq.commands.search_options import Options
from switchq.commands.subject import Subject, load_subject
from switchq.data.local import looks_like_file
from switchq.data.scoring_set import ScoringSet
from switchq.data.squad import read_squad
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.evaluation import check_writable, run_record, sha256, write_json
from switchq.models import pick_device
from switchq.posttraining.journal import key_of
from switchq.posttraining.search.dev import score_dev
from switchq.posttraining.search.evolution import Evolution
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.measure import ModelMeasure
from switchq.posttraining.search.metric import Metric
from switchq.posttraining.search.objective import Objective, Scored
from switchq.posttraining.search.output import SearchFiles
from switchq.posttraining.search.report import labels, result_record, results_table, unsigned_zero
from switchq.posttraining.search.run import check_reference, run_methods, spread
from switchq.posttraining.search.scores import pick_score, unit_scores
from switchq.posttraining.search.space import Cost, Space, search_space
from switchq.posttraining.search.study import Study
from switchq.posttraining.search.trials import Trials
from switchq.posttraining.sensitivity import Sensitivity
from switchq.words import command_line, count_of

NO_DEV = "none"
"""As --dev: the search ends without a look at a dev set."""

LIMITS: tuple[Cost, ...] = ("average_bits", "weight_mb")


def search_command(**arguments: Any) -> None:
    """See `switchq.verbs.search`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    options = Options(**arguments)
    options.check()
    files = SearchFiles(Path(options.output))
    check_writable(files.csv)
    files.check_inputs({"--sensitivity": options.sensitivity, "--data": options.data, "--dev": options.dev})
    files.check(options.overwrite)
    place = pick_device(options.device)
    sensitivity = None if options.sensitivity is None else Sensitivity.read(options.sensitivity)
    score = None if sensitivity is None else pick_score(sensitivity, options.score)
    subject = load_subject(
        options.ckpt,
        options.model,
        base=options.base,
        bits=options.widths,
        grid=options.grid,
        group_size=options.group_size,
        scale=options.scale,
    )
    space = search_space(subject.model, options.widths or subject.widths, options.group)
    limits = _limits(space, options)
    questions = _questions(subject, options)
    dev = _dev_source(subject, options)
    record = run_record(
        subject.model.to(place),  # type: ignore[arg-type]
        base=subject.identity.name,
        base_hash=subject.identity.sha256,
        checkpoint=options.ckpt,
        data=questions.source,
        seed=options.seed,
        settings={**subject.settings, "scoring": questions.settings()},
    )
    if sensitivity is not None:
        sensitivity.check(record["base_hash"], record["checkpoint_sha256"], space.names, subject.settings.get("grid"))
        _warn_of_stand_ins(sensitivity, space)
    measure = ModelMeasure(subject.model, subject.tokenizer, questions, Metric(options.metric))
    settings = {
        **{name: value for name, value in asdict(options).items() if name not in ("output", "overwrite", "device")},
        "method": list(options.methods),
        "score": score,
        "widths": list(space.widths),
        "dev": dev,
        "questions": len(questions.questions),
    }
    header = {"key": _key(record, settings, questions, options), "run": record, "settings": settings}
    journal, trials = _claim(files, header, options.overwrite)
    try:
        objective = Objective(
            measure, len(space.names), len(questions.questions), measure.metric, options.budget, journal
        )
        study = Study(space, objective, trials, options.cost, limits, options.seed)
        try:
            check_reference(objective)
        except UserError:
            if not trials.rows and not journal.resumed and parallel.is_first():
                files.remove()
            raise
        with live_bar(len(journal.entries["eval"]) if journal.resumed else 0) as live:
            live.study, objective.advance = study, live.advance
            ranking, additive = (
                None if sensitivity is None else unit_scores(space, sensitivity, str(score), summed)
                for summed in (False, True)
            )
            evolution = Evolution(options.generations, options.population)
            methods = run_methods(
                study, options.methods, ranking, additive, evolution, live.start, options.greedy_share
            )
            chosen = _choose(study)
            shown = _shown(study, chosen, options.dev_points)
            scores = _score_dev(subject, study, shown, dev, options, journal, live)
        result = result_record(study, methods, chosen, scores, journal.header["run"], journal.header["settings"])
        if parallel.is_first():
            write_json(files.bitmap, {"bitmap": dict(zip(space.names, chosen.bitmap))})
            write_json(files.json, result)
    except KeyboardInterrupt:
        kept = len(journal.entries["eval"])
        print(
            f"\n{count_of(kept, 'evaluation')} kept in {files.journal}: run the same command to go on", file=sys.stderr
        )
        raise
    finally:
        journal.close()
    _show(study, methods, chosen, shown, scores, subject, files, dev)


def _claim(files: SearchFiles, header: Mapping[str, Any], overwrite: bool) -> tuple[SearchJournal, Trials]:
    """What the first process keeps on disk; the others have the same in memory, and so take the same course."""
    if parallel.is_first():
        journal, trials = files.claim(header, overwrite)
    else:
        journal = SearchJournal(None, header)
        trials = Trials(None, journal)
    journal.share()
    return journal, trials


def _warn_of_stand_ins(sensitivity: Sensitivity, space: Space) -> None:
    """Say which searched widths were not measured.

    Raises:
        UserError: nothing stands in for one.
    """
    found = [(bits, sensitivity.stand_in(bits)) for bits in space.widths]
    words = ", ".join(f"{bits} bits (those of {other} stand in)" for bits, other in found if bits != other)
    if words and parallel.is_first():
        print(f"switchq: warning: the sensitivities were not measured at {words}", file=sys.stderr)


def _limits(space: Space, options: Options) -> dict[Cost, float]:
    """The limits given.

    Raises:
        UserError: one that no bitmap keeps.
    """
    found: dict[Cost, float] = {}
    for name in LIMITS:
        limit = getattr(options, name)
        if limit is None:
            continue
        if not limit >= space.smallest(name) - 1e-9:
            raise UserError(
                f"no bitmap keeps --{name} {limit:g}: the smallest reachable with widths "
                f"{', '.join(map(str, space.widths))} is {space.smallest(name):.4g}"
            )
        found[name] = limit
    return found


def _questions(subject: Subject, options: Options) -> ScoringSet:
    """The search questions, in an order of their own."""
    drawn = subject.training_questions(options.data, options.questions, options.seed)
    source = options.data if options.data is not None else str(subject.data["train"])
    order = np.random.default_rng(options.seed).permutation(len(drawn))
    return ScoringSet(
        name=f"{'' if options.data else 'held out of '}{Path(source).name}",
        source=source,
        questions=[drawn[i] for i in order],
        prompt=subject.prompt,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens or subject.max_answer_tokens,
        max_length=subject.data.get("max_length"),
    )


def _dev_source(subject: Subject, options: Options) -> str | None:
    """The dev set, which is not read yet; None if there is none, or none is wanted.

    Raises:
        UserError: it is not there, or it is what the search looks at.
    """
    source: str | None = options.dev if options.dev is not None else subject.data.get("dev")
    if source is None or source == NO_DEV:
        return None
    path = Path(source)
    if looks_like_file(source) and not path.is_file():
        raise UserError(f"the dev set {source} is not there: give --dev FILE")
    if options.data is not None and Path(options.data).exists() and path.exists() and path.samefile(options.data):
        raise UserError(f"{source} is the dev set: a search takes training questions, give others as --data")
    return source


def _key(record: Mapping[str, Any], settings: Mapping[str, Any], questions: ScoringSet, options: Options) -> str:
    """A hash of all that decides the values and the course of a search."""
    names = ("base_hash", "checkpoint_sha256", "device", "dtype", "settings")
    asked = [[q.id, q.context, q.question, list(q.answers)] for q in questions.questions]
    chosen = {name: value for name, value in settings.items() if name not in ("ckpt", "model", "base", "data")}
    sources = {"sensitivity": options.sensitivity, "dev": settings["dev"]}
    files = {
        name: sha256(path) if path is not None and Path(path).is_file() else path for name, path in sources.items()
    }
    return key_of({"run": {name: record[name] for name in names}, "settings": {**chosen, **files}, "questions": asked})


def _choose(study: Study) -> Scored:
    """The cheapest bitmap that keeps budget and limits; if there is none, the best one that keeps the limits."""
    chosen = study.chosen()
    if chosen is not None:
        return chosen
    metric = study.objective.metric
    fitting = [scored for bitmap, scored in study.points.items() if study.fits(bitmap)]
    if not fitting:
        raise UserError("the search found no bitmap within the limits: add --method ilp, which looks for one")
    return min(fitting, key=lambda scored: (metric.loss(scored.figures[metric.name]), study.price(scored.bitmap)))


def _shown(study: Study, chosen: Scored, count: int) -> list[Bitmap]:
    """What goes into the table and is scored on dev: the references, the chosen one, a part of the front."""
    some = {scored.bitmap for scored in spread(study.front(), count)}
    return sorted({*some, chosen.bitmap, *labels(study)}, key=lambda bitmap: study.point(study.points[bitmap]))


def _score_dev(
    subject: Subject,
    study: Study,
    shown: Sequence[Bitmap],
    source: str | None,
    options: Options,
    journal: SearchJournal,
    live: Live,
) -> list[dict[str, Any]]:
    if source is None:
        return []
    live.start("dev", len(shown))
    questions = subset(read_squad(source, "validation"), options.dev_limit, options.seed)
    dev = ScoringSet(
        name=Path(source).name,
        source=source,
        questions=questions,
        prompt=subject.prompt,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens or subject.max_answer_tokens,
        max_length=subject.data.get("max_length"),
    )
    metric = study.objective.metric
    return score_dev(
        subject.model, subject.tokenizer, dev, shown, metric, journal, seed=options.seed, advance=live.advance
    )


def _show(
    study: Study,
    methods: Mapping[str, Mapping[str, Any]],
    chosen: Scored,
    shown: Sequence[Bitmap],
    scores: Sequence[Mapping[str, Any]],
    subject: Subject,
    files: SearchFiles,
    dev: str | None,
) -> None:
    console = Console()
    objective, front = study.objective, study.front()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"{subject.name}\n{count_of(objective.questions, 'search question')}{_dev_words(scores)}")
    console.print(results_table(study, shown, chosen.bitmap, scores))

    on_front = sum(scored.bitmap in set(shown) for scored in front)
    say(f"* on the front ({on_front} of its {len(front)} bitmaps are shown), → chosen")
    for method, counts in methods.items():
        say(
            f"{method}: {count_of(counts['bitmaps'], 'bitmap')}, "
            f"{count_of(counts['question_evaluations'], 'question evaluation')}, "
            f"{count_of(counts['cache_hits'], 'cache hit')}, {counts['seconds']:,.0f} s"
        )
    drop = unsigned_zero(100 * objective.metric.drop(chosen.figures[objective.metric.name], objective.full_figure), 1)
    verdict = "within" if study.verdicts[chosen.bitmap] else "NOT within; no bitmap tried keeps the limits and"
    say(
        f"Chosen: {study.space.average_bits(chosen.bitmap):.2f} bits, {study.space.weight_mb(chosen.bitmap):,.2f} MB, "
        f"drop {drop:.1f} % on the search questions ({verdict} the budget of {100 * objective.budget:g} %)"
    )
    if dev is None:
        say("No dev set was scored: give --dev FILE")
    say(f"Table {files.csv}\nResult {files.json}\nBitmap {files.bitmap}")
    say(f"Try next {_next(subject, dev, files.bitmap)}")


def _next(subject: Subject, dev: str | None, bitmap: Path) -> str:
    """The command that scores the chosen bitmap on the dev set."""
    own = subject.data.get("dev")  # what a checkpoint is scored on unless told otherwise
    asked = ["--data", dev or "QUESTIONS.json"] if own is None or dev not in (None, own) else []
    return command_line("switchq", "eval", *subject.options, *asked, "--bitmap", f"@{bitmap}")


def _dev_words(scores: Sequence[Mapping[str, Any]]) -> str:
    return f", {count_of(scores[0]['n_questions'], 'dev question')}" if scores else ""
