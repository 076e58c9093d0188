"""Post-training quantisation: every method at equal settings, as figures and a table."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from switchq.bitmap import FULL
from switchq.plots.leaderboard import leaderboard_chart
from switchq.posttraining.ptq.leaderboard import Entry, cross_table, entries, figures
from switchq.posttraining.ptq.leaderboard import Figure as Score
from switchq.posttraining.ptq.results import FULL_PRECISION
from switchq.posttraining.report.content import Column, Figure, Made, Section, Table, made_from, table
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.sweeps import Sweep, joined
from switchq.posttraining.report.text import short, slug

FORMS = {"perplexity": "g", "g": "g"}


def leaderboard(sources: Sources) -> Section | None:
    """Figures and tables of all sweeps, those that can be compared on one board."""
    blocks = [block for number, one in enumerate(joined(sources.sweeps), 1) for block in _blocks(one, number)]
    return Section("leaderboard", "Post-training quantisation", tuple(blocks)) if blocks else None


def _blocks(one: Sweep, number: int) -> list[Figure | Table]:
    rows = entries(one.runs)
    made = made_from(one.paths, [run.run for run in one.runs], more=one.setting)
    tag = f"{slug(one.name)}-{number}"
    drawn = [
        made_figure for score in figures(one.tasks, headlines=True) for made_figure in _figure(rows, score, made, tag)
    ]
    return [*drawn, _table(rows, one, made, tag), *_cross(rows, one, made, tag)]


def _label(row: Entry, several: bool) -> str:
    return f"{row.name} ({Path(row.calibration).name})" if several and row.calibration else row.name


def _figure(rows: Sequence[Entry], score: Score, made: Made, tag: str) -> list[Figure]:
    several = len({row.calibration for row in rows if row.calibration}) > 1
    points: list[dict[str, Any]] = []
    for row in rows:
        value, bits = row.mean(score.task, score.metric), row.cost("effective_bits")
        if row.bits != FULL and value is not None and math.isfinite(value) and bits is not None:
            points.append(
                {
                    "method": short(_label(row, several)),
                    "effective_bits": bits,
                    "average_bits": float(row.bits),
                    "value": value,
                }
            )
    if not points or score.metric in ("tokens/s", "latency ms"):
        return []
    full = next((row.mean(score.task, score.metric) for row in rows if row.name == FULL_PRECISION), None)
    higher = score.better == "higher"
    title = f"{short(score.task)}: {score.metric} against effective bits"
    words = f"{'Up' if higher else 'Down'} and left is better. Each line is a method, each colour a width."
    words += "" if full is None else " The dotted line across is full precision."
    words += " Effective bits count codes, scales and zero points."
    chart = leaderboard_chart(points, f"{short(score.task)} {score.metric}", higher, full)
    return [Figure(slug(f"ptq-{score.task}-{score.metric}-{tag}"), title, words, chart, made)]


def _table(rows: Sequence[Entry], one: Sweep, made: Made, tag: str) -> Table:
    several = len({row.calibration for row in rows if row.calibration}) > 1
    columns = [
        Column("Method", [row.name for row in rows]),
        Column("Bits", [float(row.bits) for row in rows], ".0f"),
        Column("Calibrated on", [row.calibration or "" for row in rows] if several else []),
        Column(
            "Seeds", [float(len(row.runs)) for row in rows] if any(len(row.runs) > 1 for row in rows) else [], ".0f"
        ),
        Column("Effective bits", [row.cost("effective_bits") for row in rows], ".2f", "lower"),
    ]
    for score in figures(one.tasks):
        name = f"{score.task} {score.metric}"
        means = [_finite(row.mean(score.task, score.metric)) for row in rows]
        columns.append(Column(name, means, FORMS.get(score.form, score.form), _better(score.better)))
        spreads = [row.spread(score.task, score.metric) for row in rows]
        if any(spread is not None for spread in spreads):
            columns.append(Column(f"{name} ±", spreads, "g"))
    columns += [
        Column("Weights MB", [row.cost("size_mb") for row in rows], "g", "lower"),
        Column("Times smaller", [row.cost("compression") for row in rows], ".2f", "higher"),
        Column("Quantise s", [row.cost("quantised_seconds") for row in rows], ",.1f", "lower"),
        Column("Peak memory MB", [row.cost("peak_memory_mb") for row in rows], ",.0f", "lower"),
        Column("Failed", [row.failed[0].error or "" if row.failed else "" for row in rows]),
    ]
    words = ["The best value of a column is in bold. Click a heading to sort.", "Setting:"]
    set_to = {name: value for name, value in one.setting.items() if value not in (None, [], "")}
    words.append(", ".join(f"{name} {_said(value)}" for name, value in set_to.items()) + ".")
    words += [f"{short(task)}: {described.get('protocol', '')}." for task, described in one.tasks.items()]
    return table(f"ptq-{tag}", f"Leaderboard of {short(one.base)}", " ".join(words), columns, made)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cross(rows: Sequence[Entry], one: Sweep, made: Made, tag: str) -> list[Table]:
    """What it was calibrated on down, what it was scored on across."""
    scores = figures(one.tasks, headlines=True)
    found = {score: cross_table(rows, score) for score in scores}
    lines = list(
        dict.fromkeys(
            (name, bits, calibration)
            for cells in found.values()
            for (name, bits), by_set in cells.items()
            for calibration in by_set
        )
    )
    if not lines:
        return []
    columns = [
        Column("Method", [name for name, _, _ in lines]),
        Column("Bits", [float(bits) for _, bits, _ in lines], ".0f"),
        Column("Calibrated on", [calibration for _, _, calibration in lines]),
    ]
    for score in scores:
        values = [_finite(found[score].get((name, bits), {}).get(calibration)) for name, bits, calibration in lines]
        columns.append(Column(f"{score.task} {score.metric}", values, FORMS.get(score.form, score.form)))
    words = "Calibrating on the kind of text that is scored flatters the score: compare down a column."
    return [table(f"ptq-cross-{tag}", "Calibrated on one set, scored on another", words, columns, made)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _better(better: str) -> Any:
    return better if better in ("higher", "lower") else ""
