"""`switchq ptq`: every method at equal settings, scored by the same tasks, as a leaderboard."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from switchq import parallel
from switchq.bitmap import FULL
from switchq.commands.ptq_options import PtqOptions
from switchq.commands.ptq_tables import cross_tables, leaderboard_tables
from switchq.commands.quiet import quiet
from switchq.commands.rounded import check_base
from switchq.commands.sweeping import check_setting, sweep_bar
from switchq.errors import UserError
from switchq.evaluation.tasks import Suite
from switchq.files import short_names
from switchq.models import architecture_of, context_window, load_config, load_model, load_tokenizer, pick_device
from switchq.posttraining.journal import key_of
from switchq.posttraining.ptq.folder import SweepFolder, slug_of
from switchq.posttraining.ptq.leaderboard import entries
from switchq.posttraining.ptq.packing import Packing
from switchq.posttraining.ptq.plan import Run, plan
from switchq.posttraining.ptq.results import FULL_PRECISION, SWITCHQ, RunRecord
from switchq.posttraining.ptq.saving import HF, check_free, holds
from switchq.posttraining.ptq.sweep import Sweep, Switchable
from switchq.training.checkpoint import read_checkpoint, restore_module
from switchq.words import count_of


def ptq_command(**arguments: Any) -> None:
    """See `switchq.verbs.ptq`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    options = PtqOptions(**arguments)
    options.check()
    folder = SweepFolder(options.output)
    folder.check(options.overwrite)
    place = pick_device(options.device)
    checkpoint = None if options.checkpoint is None else read_checkpoint(options.checkpoint)
    name = options.model or str(checkpoint["base"]["name"] if checkpoint is not None else "")
    architecture_of(load_config(name))
    check_base(name)
    tokenizer, window = load_tokenizer(name), context_window(name)
    setting = options.setting(window)
    methods, tasks = options.picked_methods(), options.read_tasks()
    runs = plan(methods, setting, options.widths, options.calibrations, options.seed_list, checkpoint is not None)
    places = _places(options, runs)
    if loses := [run.name for run in places if run.method is not None and run.method.activations is not None]:
        raise UserError(f"method {loses[0]} rounds activations, which a saved model cannot hold: do not --save it")
    suite = Suite.load(tasks, tokenizer, window, options.limit)
    base = load_model(name, options.dtype)
    check_setting(base, setting, [method.grid_for(setting) for method in methods])
    sweep = Sweep(base, name, suite, folder, place, batch_size=options.batch_size, offload=options.offload)
    sweep.save_format = options.save_format
    if checkpoint is not None:
        sweep.switchable = _switchable(checkpoint, name, sweep.base_hash, str(options.checkpoint))
    for run in runs:
        if run.setting is not None and run.calibration is not None:
            sweep.calibration(run.setting)
    for run, target in places.items():
        check_free(target, options.overwrite or holds(target, sweep.key(run), options.save_format))
        if options.save_format != HF and run.method is not None and run.setting is not None:
            Packing(options.save_format).check(base, run.method, run.setting)
    header = {
        "key": key_of({"base": sweep.base_hash, "tasks": sweep.tasks, "dtype": options.dtype, "device": place.type}),
        "base": name,
        "tasks": sweep.tasks,
        "setting": options.shared_setting(setting),
    }
    folder.claim(header, options.overwrite, {run.place: sweep.key(run) for run in runs})
    try:
        missing = sweep.missing(runs, lambda run: places.get(run))
        if len(missing) < len(runs):
            rest = "" if missing else ": there is nothing left to do"
            print(f"{len(runs) - len(missing)} of {len(runs)} runs are there already{rest}", file=sys.stderr)
        with sweep_bar("ptq", len(missing) * len(suite) // parallel.size()) as start:
            records = sweep.run(runs, start, lambda run: places.get(run))
    except KeyboardInterrupt:
        print(
            f"\n{count_of(len(folder.records), 'run')} kept in {folder.path}: run the same command to go on",
            file=sys.stderr,
        )
        raise
    finally:
        folder.close()
    _show(options, sweep, records, [target for run, target in places.items()])


def _places(options: PtqOptions, runs: Sequence[Run]) -> dict[Run, Path]:
    """Where the models are saved: one in the folder itself, several in folders in it."""
    if options.save is None:
        return {}
    made = [run for run in runs if run.method is not None]
    if len(made) == 1:
        return {made[0]: Path(options.save)}
    texts = options.calibrations if len(options.calibrations) > 1 else ()
    tails = {text: f"-{name}" for text, name in zip(texts, short_names(texts, "--calibration"), strict=True)}
    return {
        run: Path(options.save) / f"{slug_of(run.name, run.bits, run.seed)}{tails.get(str(run.calibration), '')}"
        for run in made
    }


def _switchable(checkpoint: dict[str, Any], name: str, base_hash: str, path: str) -> Switchable:
    """The checkpoint's model.

    Raises:
        UserError: it was trained over another base than the methods start from.
    """
    if checkpoint["base"].get("sha256") != base_hash:
        raise UserError(
            f"{path} was trained over {checkpoint['base'].get('name')}, whose weights are not those of {name}"
        )
    from switchq.evaluation import sha256

    module = restore_module(checkpoint, name)
    grid = module.hparams["grid"]
    return Switchable(module.model, {"sha256": sha256(path), "grid": grid, "bits": list(module.hparams["bits"])})


def _show(options: PtqOptions, sweep: Sweep, records: Sequence[RunRecord], saved: Sequence[Path]) -> None:
    console = Console()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    rows = entries(records)
    say(f"{sweep.name}, {options.describe()}")
    for table in [*leaderboard_tables(rows, sweep.tasks, console.width), *cross_tables(rows, sweep.tasks)]:
        console.print()
        console.print(table)
    console.print()
    for name, described in sweep.tasks.items():
        say(f"{name}: {described['protocol']} ({count_of(described['examples'], 'example')})")
    failed = [record for record in records if record.error is not None]
    for record in failed:
        say(f"FAILED {record.name} at {record.bits} bits: {record.error}")
    say(f"Results {options.output} (switchq report {options.output})")
    for target in saved:
        if target.is_dir():
            say(f"Model {target} (switchq verify {target})")
    own = [record for record in records if record.name not in (FULL_PRECISION, SWITCHQ) and record.bits != FULL]
    if failed and len(failed) == len(own or records):
        raise UserError(f"every method failed; the first: {failed[0].name} at {failed[0].bits} bits: {failed[0].error}")
