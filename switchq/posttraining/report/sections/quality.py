"""Quality against size: one figure per score and set of questions or texts."""

from typing import Any

from switchq.plots.front import pareto
from switchq.plots.quality import KINDS, files_with_lines, quality_chart
from switchq.posttraining.report.compare import Group, Row, groups, kind, score
from switchq.posttraining.report.content import Figure, Made, Section, made_from
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.text import short, slug


def quality(sources: Sources) -> Section | None:
    """Every scored bitmap by weight MB, the front through the best."""
    figures = [_figure(group, metric) for group in groups(sources) for metric in group.metrics]
    named = [
        Figure(slug(one.slug, number), one.title, one.caption, one.chart, one.made)
        for number, one in enumerate(figures, 1)
    ]
    return Section("quality", "Quality against size", tuple(named)) if named else None


def points(group: Group, metric: str) -> list[dict[str, Any]]:
    """The rows of a group that have a score, as `quality_chart` takes them, with the front marked."""
    higher = metric == "F1"
    rows = [row for row in group.rows if score(row.result, metric) is not None]
    values = [(row.result.weight_mb, float(score(row.result, metric) or 0.0)) for row in rows]
    found: list[dict[str, Any]] = []
    labelled: set[str] = set()
    for row, (_, value), front in zip(rows, values, pareto(values, higher)):
        result = row.result
        shape = kind(result.bits)
        label = str(result.bits[0]) if shape == "uniform" and str(result.bits[0]) not in labelled else None
        if label:
            labelled.add(label)
        low, high = row.scored.intervals.get(metric, (None, None))
        found.append(
            {
                "bitmap": short(result.label),
                "file": short(row.file),
                "adapters": "on" if result.adapters else "off",
                "kind": shape,
                "average_bits": result.average_bits,
                "weight_mb": result.weight_mb,
                "value": value,
                "before": None if row.before is None else score(row.before, metric),
                "kept": row.kept(metric) if higher else None,
                "low": low,
                "high": high,
                "front": front,
                "label": label,
            }
        )
    return found


def _figure(group: Group, metric: str) -> Figure:
    rows = points(group, metric)
    higher = metric == "F1"
    kinds = [one for one in KINDS if any(row["kind"] == one for row in rows)]
    words = [
        f"Each mark is a bitmap ({', '.join(kinds)}), coloured by its mean width.",
        f"{'Up' if higher else 'Down'} and left is better.",
    ]
    if sum(bool(row["front"]) for row in rows) > 1:
        words.append("The line joins the bitmaps that none of the others beats in both size and score.")
    if files_with_lines(rows):
        words.append("A thin line joins the uniform and striped bitmaps of each file.")
    if any(row["before"] is not None for row in rows):
        words.append("Hollow marks: before training, joined to the same bitmap after it.")
    if any(row["low"] is not None for row in rows):
        words.append("Bars: 95 % intervals.")
    words.append(f"Numbers beside marks are uniform bit-widths. Scored on {group.title}.")
    name = "F1" if higher else metric[0].upper() + metric[1:]
    return Figure(
        f"{metric}-against-size-{group.title}",
        f"{name} against size: {_front(rows)}",
        " ".join(words),
        quality_chart(rows, "F1 (%)" if higher else f"{name} (per token)", higher),
        made_of(group.rows),
    )


def _front(rows: list[dict[str, Any]]) -> str:
    """The front in words: its smallest bitmap and its best."""
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["weight_mb"])
    first, last = front[0], front[-1]
    if first["bitmap"] == last["bitmap"]:
        return f"nothing beats {_bitmap(first)}"
    return f"the front runs from {_bitmap(first)} to {_bitmap(last)}"


def _bitmap(row: dict[str, Any]) -> str:
    name = f"{row['bitmap']} bits" if row["kind"] == "uniform" else row["bitmap"]
    return f"{name} ({row['weight_mb']:,.2f} MB)"


def made_of(rows: tuple[Row, ...] | list[Row]) -> Made:
    """How the records of some rows came about."""
    return made_from([row.path for row in rows], [row.result.run for row in rows])
