"""`switchq transfer`: statistics from a small model, scales for a larger one, and what that costs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from switchq.commands.quiet import quiet
from switchq.commands.rounded import check_base
from switchq.commands.sweeping import check_setting, sweep_bar
from switchq.commands.transfer_options import TransferOptions
from switchq.commands.transfer_tables import tables_of
from switchq.errors import UserError
from switchq.evaluation.tasks import Suite
from switchq.models import architecture_of, context_window, load_config, pick_device
from switchq.posttraining.ptq.folder import SweepFolder
from switchq.posttraining.ptq.plan import Run
from switchq.posttraining.ptq.results import RunRecord, unpack_items
from switchq.posttraining.ptq.setting import Setting
from switchq.posttraining.transfer.channels import Portrait
from switchq.posttraining.transfer.folder import TransferFolder
from switchq.posttraining.transfer.matching import match, unmatched
from switchq.posttraining.transfer.plan import left_out
from switchq.posttraining.transfer.results import Outcome, outcome
from switchq.posttraining.transfer.statistics import SourceStatistics, read_statistics
from switchq.posttraining.transfer.strategies import CONTROLS
from switchq.posttraining.transfer.study import Study, need_entries, warnings_of
from switchq.progress import progress_bar


@dataclass(frozen=True)
class _Models:
    """The source's statistics, and the models that they go to."""

    statistics: SourceStatistics
    chain: tuple[Portrait, ...]
    left_out: Mapping[str, str]
    warnings: Sequence[str]

    @property
    def target(self) -> Portrait:
        return self.chain[-1]


def transfer_command(**arguments: Any) -> None:
    """See `switchq.verbs_transfer.transfer`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    options = TransferOptions(**arguments)
    options.check()
    folder = TransferFolder(options.output)
    folder.check(options.overwrite)
    names = [*([options.source] if options.source else []), *(options.via or []), str(options.target)]
    for name in names:
        architecture_of(load_config(name))
        check_base(name)
    comparison = options.comparison(min(map(context_window, names)))
    tasks, place = options.read_tasks(), pick_device(options.device)
    study = Study(comparison, tasks, options.limit, options.dtype, place, options.batch_size, folder)
    suites = {name: study.suite(name) for name in dict.fromkeys((*names[:1], names[-1]))}
    try:
        models = _prepare(options, study, suites)
        study.comparison = replace(
            study.comparison,
            strategies={name: one for name, one in study.comparison.strategies.items() if name not in models.left_out},
        )
        source: list[RunRecord] = []
        if options.source is not None:
            source = _sweep(study, "source", options.source, suites, folder.source, comparison.own_runs())
        runs = study.comparison.target_runs(models.statistics, models.chain)
        target = _sweep(study, "target", str(options.target), suites, folder.target, runs)
    except KeyboardInterrupt:
        print(f"\nwhat is done is kept in {folder.path}: run the same command to go on", file=sys.stderr)
        raise
    finally:
        folder.close()
    _finish(options, study, models, source, target)


def _prepare(options: TransferOptions, study: Study, suites: Mapping[str, Suite]) -> _Models:
    """Look at every model, claim the folder, and extract what is missing."""

    def check(model: Any, setting: Setting) -> None:
        check_setting(model, setting, [setting.grid()])

    folder, given = study.folder, options.statistics
    fixed = None if given is None else read_statistics(given)
    if fixed is not None:
        need_entries(fixed, study.comparison)
    start = study.portrait(options.source, check) if options.source is not None else None
    chain = tuple(study.portrait(name, check) for name in (*(options.via or ()), str(options.target)))
    for pattern in study.comparison.setting.skip:
        if pattern not in study.kept_globs:
            raise UserError(f"skip: {pattern!r} matches no layer of any of the models")
    setting = study.described_setting()
    statistics = fixed
    if statistics is None:
        assert start is not None
        statistics = SourceStatistics(start, setting, {})
    if not options.overwrite and fixed is None:
        statistics = folder.kept_statistics(statistics)
    warnings = warnings_of(statistics.source, chain, setting, statistics.setting)
    for line in warnings:
        print(f"switchq: warning: {line}", file=sys.stderr)
    idle = left_out(study.comparison, statistics.source, chain)
    for name, why in idle.items():
        if not set(study.comparison.strategies) - set(idle) - set(CONTROLS):
            raise UserError(f"{name} {why}: name another strategy, such as adaptive")
        print(f"switchq: warning: {name} is left out: it {why}", file=sys.stderr)
    for name in suites:
        study.calibration(study.comparison.settings()[0], name)
    study.claim(chain[-1], suites[chain[-1].name], folder.target, options.overwrite)
    if options.overwrite:
        folder.clear()
    if start is not None:
        study.claim(start, suites[start.name], folder.source, options.overwrite)
    if fixed is None:
        missing = len(study.missing_entries(statistics))
        with progress_bar(missing > 0) as bar:
            task = bar.add_task("transfer extract", total=missing)
            statistics = study.extract(str(options.source), statistics, lambda: bar.advance(task))
    return _Models(statistics, chain, idle, warnings)


def _sweep(
    study: Study, what: str, name: str, suites: Mapping[str, Suite], folder: SweepFolder, runs: Sequence[Run]
) -> list[RunRecord]:
    sweep = study.sweep(name, suites[name], folder)
    runs = study.fitted(runs, sweep.base)
    missing = len(sweep.missing(runs))
    if missing < len(runs):
        print(f"{what}: {len(runs) - missing} of {len(runs)} runs are there already", file=sys.stderr)
    with sweep_bar(what, missing * len(sweep.suite)) as start:
        return sweep.run(runs, start)


def _finish(
    options: TransferOptions,
    study: Study,
    models: _Models,
    source: Sequence[RunRecord],
    target: Sequence[RunRecord],
) -> None:
    folder, comparison = study.folder, study.comparison
    entry = next(iter(models.statistics.entries.values()))
    matches = match(entry, models.target)
    titles = [
        (name, form) for form in comparison.forms for name, one in comparison.strategies.items() if form in one.forms
    ]

    def items(record: RunRecord) -> Any:
        return unpack_items(folder.target.file(record).with_suffix(".npz"), record.items_sha256)

    tasks = [task.name for task in study.tasks]
    found = outcome(source, target, comparison.forms, titles, tasks, matches, items)
    folder.write(_header(options, study, models, target), found)
    console = Console()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    chain = " -> ".join([models.statistics.source.name, *(model.name for model in models.chain)])
    say(f"{chain}, {options.describe()}")
    for table in tables_of(found, matches, tasks, console.width):
        console.print()
        console.print(table)
    console.print()
    rest = unmatched(matches)
    say(f"Unmatched layers, rounded plainly: {', '.join(rest) if rest else 'none'}")
    for name, why in models.left_out.items():
        say(f"Left out: {name} {why}")
    for record in [*source, *target]:
        if record.error is not None:
            say(f"FAILED {record.name} at {record.bits} bits seed {record.seed}: {record.error}")
    extracted = sum(one.seconds for one in models.statistics.entries.values()) / len(models.statistics.entries)
    say(f"Extracting the source's statistics took {extracted:,.1f} s for each width and seed")
    if options.source is not None:
        say(f"Statistics {folder.statistics} (switchq transfer --statistics {folder.statistics} --target MODEL)")
    say(f"Results {folder.results} (switchq report {options.output})")
    _complain(found, target)


def _complain(found: Outcome, target: Sequence[RunRecord]) -> None:
    failed = [record for record in target if record.error is not None]
    if failed and not found.gaps:
        raise UserError(f"no transfer could be compared; the first that failed: {failed[0].name}: {failed[0].error}")


def _header(options: TransferOptions, study: Study, models: _Models, target: Sequence[RunRecord]) -> dict[str, Any]:
    """What transfer.json says beside its figures."""
    statistics = models.statistics
    entry = next(iter(statistics.entries.values()))
    return {
        "source": _model(statistics.source),
        "chain": [_model(model) for model in models.chain],
        "statistics": str(options.statistics or study.folder.statistics),
        "setting": options.shared_setting(study.comparison.setting)
        | {"forms": list(study.comparison.forms), "protect_ratio": options.protect_ratio, "factor": options.factor},
        "warnings": list(models.warnings),
        "left_out": dict(models.left_out),
        "tasks": target[0].tasks,
        "extraction_seconds": {f"{bits}/{seed}": one.seconds for (bits, seed), one in statistics.entries.items()},
        "matching": [
            {"layer": layer, "source": other, "depth": one.depth, "source_depth": one.source_depth}
            for one in match(entry, models.target)
            for layer, other in one.pairs
        ],
        "unmatched": unmatched(match(entry, models.target)),
        "run": dict(target[0].run),
    }


def _model(model: Portrait) -> dict[str, Any]:
    widths = {site.place.role: site.place.inputs for site in model.sites}
    named = {name: getattr(model, name) for name in ("name", "sha256", "model_type", "vocabulary", "blocks")}
    return {**named, "inputs": widths}
