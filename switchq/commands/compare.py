"""`switchq compare`: the difference of two runs of `ptq`, or of the fronts of two searches, with paired intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from switchq.errors import UserError
from switchq.evaluation import check_writable, write_json
from switchq.posttraining.ptq.difference import Difference, Scored, compare, read_scored
from switchq.posttraining.report.reading import read_json
from switchq.posttraining.report.text import told_apart
from switchq.posttraining.search.fronts import Estimate, FrontDifference, compare_fronts
from switchq.posttraining.search.report import KIND as SEARCH
from switchq.posttraining.search.tried import SearchRun, read_search

KIND = "ptq-comparison"

FRONTS = "search-comparison"


def compare_command(run: list[str] | None, confidence: float, seed: int, output: str | None, overwrite: bool) -> None:
    """See `switchq.verbs.compare`, whose arguments these are.

    Raises:
        UserError: not two runs, runs of other examples, or an output that cannot be written.
    """
    if not run or len(run) != 2:
        raise UserError("name two runs: switchq compare ptq/runs/A.json ptq/runs/B.json")
    if not 0 < confidence < 1:
        raise UserError(f"--confidence must be between 0 and 1, not {confidence:g}")
    if seed < 0:
        raise UserError(f"--seed must not be negative, not {seed}")
    if output is not None:
        if Path(output).exists() and not overwrite:
            raise UserError(f"{output} is there already: give another --output, or --overwrite")
        check_writable(output)
    console = Console()
    searches = {path: content for path in run if (content := _search_content(Path(path))) is not None}
    other = next((path for path in run if path not in searches), None)
    if searches and other is not None:
        if not Path(other).exists():
            raise UserError(f"cannot read {other}: there is no such file")
        raise UserError(
            f"{next(iter(searches))} is a search and {other} is none: compare two searches, or two runs of "
            f"`switchq ptq`"
        )
    if searches:
        first_search, second_search = (read_search(Path(path), searches[path]) for path in run)
        content = _compare_searches(console, first_search, second_search, seed=seed, confidence=confidence)
    else:
        first, second = (read_scored(Path(path)) for path in run)
        found = compare(first, second, seed=seed, confidence=confidence)
        console.print(_table(first, second, found, confidence))
        content = {"kind": KIND, "differences": [{**asdict(one), "verdict": one.verdict} for one in found]}
    if output is not None:
        named = {"first": run[0], "second": run[1], "confidence": confidence, "seed": seed}
        write_json(output, {"kind": content.pop("kind"), **named, **content})
        console.print(f"Differences {output}", soft_wrap=True, highlight=False, markup=False)


def _search_content(path: Path) -> Mapping[str, Any] | None:
    """What the file of a search holds; None if it is no such file.

    Raises:
        UserError: the table of a search, or a file that is damaged.
    """
    if path.suffix.lower() == ".csv" and path.is_file():
        raise UserError(f"{path} is a table: give the JSON file beside it, {path.with_suffix('.json')}")
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, Mapping) and content.get("kind") == SEARCH else None


def _compare_searches(
    console: Console, first: SearchRun, second: SearchRun, *, seed: int, confidence: float
) -> dict[str, Any]:
    """Print how much better the second search's front is; returns the same as plain values.

    Raises:
        UserError: the two searched other models, or asked other questions.
    """
    differing = [name for name, value in first.subject.items() if second.subject[name] != value]
    if differing:
        raise UserError(
            f"{first.path} and {second.path} differ in {', '.join(differing)}: fronts are compared of searches of one "
            f"model by the same questions, metric, cost and budget"
        )
    try:
        found = compare_fronts(first.tried, second.tried, seed=seed, confidence=confidence)
    except ValueError as error:
        raise UserError(f"{first.path} and {second.path} cannot be compared: {error}") from None
    console.print(_fronts_table(first, second, found, confidence))
    console.print(
        f"{found.questions:,} questions were resampled, and both fronts chosen anew each time; at equal cost, "
        f"up to that of 16 bits. Positive: the second is better.",
        highlight=False,
    )
    return {"kind": FRONTS, "better_by": asdict(found)}


def _fronts_table(first: SearchRun, second: SearchRun, found: FrontDifference, confidence: float) -> Table:
    unit = "points" if first.tried.metric.generates else "nats" if first.tried.metric.name == "KL" else ""
    one, other = told_apart([first.path, second.path])
    table = _new_table(f"Front of {other} against {one}, {first.tried.metric.name}")
    table.add_column("", overflow="fold")
    table.add_column(f"value ({100 * confidence:g} %)", justify="right", no_wrap=True)

    def add(name: str, of: Estimate, scale: float = 1, suffix: str = unit) -> None:
        value, low, high = (f"{scale * end + 0.0:+.3g}" for end in (of.value, of.low, of.high))
        table.add_row(name, f"{value} {suffix} ({low}, {high})".replace("  ", " "))

    add("hypervolume", found.volume, 100, "%")
    add("mean height", found.height)
    add("mean height on questions left out of the choice", found.held_out)
    add("most that it lies below", found.below, -1)
    add("most that it lies above", found.above)
    return table


def _new_table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _table(first: Scored, second: Scored, found: Sequence[Difference], confidence: float) -> Table:
    one, other = (f"{scored.record.name} at {scored.record.bits}" for scored in (first, second))
    table = _new_table(f"{other} bits compared with {one} bits")
    table.add_column("task and metric", vertical="bottom", overflow="fold")
    for name in ("first", "second", f"difference ({100 * confidence:g} %)", "examples"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("second is", vertical="bottom", no_wrap=True)
    for row in found:
        interval = "" if math.isnan(row.low) else f" ({row.low:+.3g}, {row.high:+.3g})"
        cells = (f"{row.first:.4g}", f"{row.second:.4g}", f"{row.difference:+.3g}{interval}", f"{row.examples:,}")
        table.add_row(f"{row.task} {row.metric}", *cells, row.verdict)
    return table
