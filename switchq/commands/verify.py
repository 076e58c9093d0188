"""`switchq verify`: is a saved quantised model what was scored, does it score the same, how does it write."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from switchq.commands.fixed_tables import show_fixed
from switchq.commands.prompt import check_prompt
from switchq.commands.ptq_tables import figure_text
from switchq.commands.quiet import quiet
from switchq.errors import UserError
from switchq.evaluation import decode
from switchq.evaluation.provenance import device_name
from switchq.evaluation.sealed import check_files, read_seal
from switchq.evaluation.tasks import Score, Speed, Suite, Task, same_examples, task_from_dict
from switchq.inference.formats import KIND as FIXED
from switchq.inference.formats import read_fixed
from switchq.models import context_window, load_tokenizer, pick_device
from switchq.posttraining.ptq.results import RunRecord
from switchq.posttraining.ptq.saving import Saved, read_saved
from switchq.progress import progress_bar
from switchq.words import count_of

TOLERANCE = 1e-4
"""Relative difference of a figure that another machine's arithmetic may make."""

PROMPT = "The"


@dataclass(frozen=True)
class Again:
    """A figure as it was saved and as it is now."""

    task: str
    metric: str
    form: str
    saved: float | None
    now: float

    @property
    def same(self) -> bool:
        """Whether they agree; what is not finite was saved as None."""
        if self.saved is None:
            return not math.isfinite(self.now)
        return math.isclose(self.saved, self.now, rel_tol=TOLERANCE, abs_tol=1e-9)


def verify_command(
    folder: list[str] | None, prompt: str | None, max_new_tokens: int, scores: bool, device: str
) -> None:
    """See `switchq.verbs.verify`, whose arguments these are.

    Raises:
        UserError: a file that is missing or has changed, other weights or other scores than were saved.
    """
    quiet()
    if not folder or len(folder) != 1:
        raise UserError(
            "name one folder that `switchq ptq --save` or `switchq export --format` wrote: switchq verify DIR"
        )
    if max_new_tokens < 1:
        raise UserError(f"--max_new_tokens must be at least 1, not {max_new_tokens}")
    text = prompt if prompt is not None else PROMPT
    check_prompt(text)
    console, place = Console(), pick_device(device)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    if read_seal(Path(folder[0]))["kind"] == FIXED:
        _verify_fixed(console, Path(folder[0]))
        return
    saved = read_saved(Path(folder[0]))
    record = saved.record
    say(f"{saved.folder}: {record.run.get('base')} by {record.name} at {record.bits} bits")
    check_files(saved.folder, saved.files)
    model = saved.load()
    saved.check_weights(model)
    say(f"{count_of(len(saved.files), 'file')} and the weights have the hashes that were saved")
    tokenizer = load_tokenizer(str(saved.folder))
    model.to(place)  # type: ignore[arg-type]
    if scores:
        suite = _suite(saved, tokenizer)
        with progress_bar() as bar:
            task = bar.add_task("verify", total=len(suite))
            found = suite.score(model, lambda done: bar.advance(task, done))
        again = list(_again(record, found))
        console.print(_table(again))
        if wrong := [one for one in again if not one.same]:
            names = ", ".join(f"{one.task} {one.metric}" for one in wrong)
            before, now = record.run.get("device"), device_name(place)
            where = "" if before == now else f" (saved on {before}, now on {now})"
            raise UserError(f"{saved.folder} scores otherwise than when it was saved: {names}{where}")
        say("The scores are those that were saved")
    room = context_window(model) - max_new_tokens
    if room < 1:
        raise UserError(f"--max_new_tokens must be below the model's window of {context_window(model)}")
    ids = tokenizer(text)["input_ids"][-room:]
    if not ids:
        raise UserError("--prompt has no tokens")
    (written,) = decode(model, tokenizer, [ids], max_new_tokens=max_new_tokens).texts
    say(f"It continues {text!r}: {written!r}")


def _verify_fixed(console: Console, folder: Path) -> None:
    """A model of `switchq export` has no scores: its files are what can be checked."""
    fixed, files = read_fixed(folder)
    check_files(folder, files)
    show_fixed(console, "A model", fixed)
    have = "has the hash that was saved" if len(files) == 1 else "have the hashes that were saved"
    console.print(f"{count_of(len(files), 'file')} {have}", highlight=False)


def _suite(saved: Saved, tokenizer: Any) -> Suite:
    """What it was scored on, but for timings, as it is now.

    Raises:
        UserError: a source that is not there any more or has changed.
    """
    tasks: list[Task] = [task_from_dict(described) for described in saved.record.tasks.values()]
    kept = [task for task in tasks if not isinstance(task, Speed)]
    suite = Suite.load(kept, tokenizer, context_window(str(saved.folder)))
    for name, described in suite.describe().items():
        if not same_examples(described, saved.record.tasks[name]):
            raise UserError(f"{described['init_args']['source']} has changed since task {name} was scored on it")
    return suite


def _again(record: RunRecord, found: Mapping[str, Score]) -> Iterator[Again]:
    for task, score in found.items():
        forms = {metric["name"]: metric["form"] for metric in record.tasks[task]["metrics"]}
        for metric, now in score.figures.items():
            yield Again(task, metric, forms[metric], record.figure(task, metric), now)


def _table(again: list[Again]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("task", "metric"):
        table.add_column(name)
    for name in ("saved", "now"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in again:
        saved = math.inf if one.saved is None else one.saved
        marks = "same" if one.same else "DIFFERS"
        table.add_row(one.task, one.metric, figure_text(saved, one.form), figure_text(one.now, one.form), marks)
    return table
