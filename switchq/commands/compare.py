"""`switchq compare`: the difference of two runs, with paired bootstrap intervals."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from switchq.errors import UserError
from switchq.evaluation import check_writable, write_json
from switchq.posttraining.ptq.difference import Difference, Scored, compare, read_scored

KIND = "ptq-comparison"


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
    first, second = (read_scored(Path(path)) for path in run)
    found = compare(first, second, seed=seed, confidence=confidence)
    console = Console()
    console.print(_table(first, second, found, confidence))
    if output is not None:
        content = {
            "kind": KIND,
            "first": str(first.path),
            "second": str(second.path),
            "confidence": confidence,
            "seed": seed,
            "differences": [{**asdict(one), "verdict": one.verdict} for one in found],
        }
        write_json(output, content)
        console.print(f"Differences {output}", soft_wrap=True, highlight=False, markup=False)


def _table(first: Scored, second: Scored, found: Sequence[Difference], confidence: float) -> Table:
    one, other = (f"{scored.record.name} at {scored.record.bits}" for scored in (first, second))
    table = Table(
        title=f"{other} bits compared with {one} bits",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("task and metric", vertical="bottom", overflow="fold")
    for name in ("first", "second", f"difference ({100 * confidence:g} %)", "examples"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("second is", vertical="bottom", no_wrap=True)
    for row in found:
        interval = "" if math.isnan(row.low) else f" ({row.low:+.3g}, {row.high:+.3g})"
        cells = (f"{row.first:.4g}", f"{row.second:.4g}", f"{row.difference:+.3g}{interval}", f"{row.examples:,}")
        table.add_row(f"{row.task} {row.metric}", *cells, row.verdict)
    return table
