"""The leaderboard on a terminal: grouped by width, the best of a width bold, as wide as the terminal."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from switchq.commands.grouped_tables import Cells, empty_table, fitting, grouped_table
from switchq.evaluation.tables import perplexity_text
from switchq.posttraining.ptq.leaderboard import Entry, Figure, best, by_width, cross_table, figures

COSTS = (
    ("weights\nMB", "size_mb", ",.2f"),
    ("times\nsmaller", "compression", ".2f"),
    ("quantise\nseconds", "quantised_seconds", ",.1f"),
    ("peak\nMB", "peak_memory_mb", ",.0f"),
)


def figure_text(value: float | None, form: str) -> str:
    """A figure as tables write it."""
    if value is None:
        return ""
    if form == "perplexity":
        return perplexity_text(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:.3g}" if form == "g" and abs(value) < 1000 else format(value, ",.0f" if form == "g" else form)


def leaderboard_tables(rows: Sequence[Entry], tasks: Mapping[str, Any], width: int) -> list[Table]:
    """All figures in as few tables as the width allows: the headlines first, then the other figures, then costs."""
    headlines = figures(tasks, headlines=True)
    others = [one for one in figures(tasks) if one not in headlines]
    columns = [_score_column(rows, one) for one in (*headlines, *others)]
    columns += [(head, [figure_text(row.cost(name), form) for row in rows]) for head, name, form in COSTS]
    columns = [(head, cells) for head, cells in columns if any(cells)]
    fixed = _fixed_columns(rows)
    widths = [row.bits for row in rows]
    return [grouped_table(widths, fixed, chunk) for chunk in fitting(columns, fixed, width)]


def cross_tables(rows: Sequence[Entry], tasks: Mapping[str, Any]) -> list[Table]:
    """For each method and width: what it was calibrated on down, what it was scored on across."""
    columns = figures(tasks, headlines=True)
    found = {one: cross_table(rows, one) for one in columns}
    keys = list(dict.fromkeys(key for cells in found.values() for key in cells))
    tables = []
    for name, bits in keys:
        table = empty_table(f"{name} at {bits} bits, by what it was calibrated on")
        table.add_column("calibrated on", vertical="bottom")
        for one in columns:
            table.add_column(f"{one.task}\n{one.metric}", justify="right", vertical="bottom", no_wrap=True)
        for calibration in dict.fromkeys(key for one in columns for key in found[one].get((name, bits), {})):
            cells = [figure_text(found[one].get((name, bits), {}).get(calibration), one.form) for one in columns]
            table.add_row(short_source(calibration), *cells)
        tables.append(table)
    return tables


def short_source(source: str) -> str:
    """A calibration set as a table names it: the end of a path, a Hub name in full."""
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.suffix in (".raw", ".txt", ".json", ".jsonl") else source


def _fixed_columns(rows: Sequence[Entry]) -> list[tuple[str, Cells]]:
    fixed = [("method", [_name(row) for row in rows])]
    if len({row.calibration for row in rows if row.calibration is not None}) > 1:
        fixed.append(
            ("calibrated\non", ["" if row.calibration is None else short_source(row.calibration) for row in rows])
        )
    bits = [row.cost("effective_bits") for row in rows]
    return [*fixed, ("effective\nbits", ["" if one is None else f"{one:.2f}" for one in bits])]


def _name(row: Entry) -> str:
    return f"{row.name} (failed)" if row.failed and not row.runs else row.name


def _score_column(rows: Sequence[Entry], one: Figure) -> tuple[str, Cells]:
    cells = []
    for _, group in by_width(rows):
        top = best(group, one)
        for row in group:
            mean, spread = row.mean(one.task, one.metric), row.spread(one.task, one.metric)
            text = figure_text(mean, one.form)
            text += "" if spread is None else f"±{figure_text(spread, one.form)}"
            cells.append(f"[bold]{text}[/]" if mean is not None and mean == top else text)
    return f"{one.task}\n{one.metric}", cells
