"""Quality against size: points by bit-width and kind of bitmap, the front through the best of them."""

import math
from collections import Counter
from collections.abc import Sequence

import altair as alt

from switchq.plots.palette import INK, MUTED, width_scale
from switchq.plots.rows import AnyChart, Rows, data

KINDS = ("uniform", "striped", "mixed")
SHAPES = ("circle", "diamond", "triangle-up")

DASHES = ([1, 0], [6, 3], [2, 2], [10, 3, 2, 3], [10, 4], [4, 2, 1, 2], [1, 4], [14, 3])
"""What tells the lines of several files apart: colours mean bit-widths."""


def quality_chart(rows: Rows, metric: str, higher_is_better: bool = True, height: int = 340) -> AnyChart:
    """A score against weight MB.

    Args:
        rows: one per bitmap: `bitmap`, `kind` (one of `KINDS`), `average_bits`, `weight_mb`, `value`, `file`, `front`
            (whether nothing beats it); optionally `before` (the score before training), `low` and `high` (the
            interval), `label` (written beside the point) and further values for the tooltip.
        metric: what the score is, with its unit, for the axis.
        higher_is_better: false for a perplexity, whose axis is logarithmic.
        height: of the plot, pixels.
    """
    values = [row[name] for row in rows for name in ("value", "before", "low", "high") if row.get(name) is not None]
    scale, axis = (percent_scale(values), alt.Axis()) if higher_is_better else log_axis(values)
    size = size_axis(rows)
    colour = bits_colour(rows)
    shape = alt.Shape(
        "kind:N",
        scale=alt.Scale(domain=list(KINDS), range=list(SHAPES)),
        legend=alt.Legend(title=None, symbolFillColor=MUTED, symbolStrokeColor=MUTED),
    )
    score = alt.Y("value:Q", title=metric, scale=scale, axis=axis)
    tooltip = _tooltip(rows, metric)
    layers: list[alt.Chart] = front_line(rows, size, score)
    layers += _file_lines(rows, size, score)
    changed = [row for row in rows if row.get("before") is not None]
    if changed:
        before = alt.Y("before:Q", title=metric, scale=scale, axis=axis)
        layers += [
            alt.Chart(data(changed)).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=size, y=score, y2="before:Q"),
            alt.Chart(data(changed))
            .mark_point(size=60, filled=False, strokeWidth=1.5, opacity=1)
            .encode(x=size, y=before, color=colour, shape=shape, tooltip=tooltip),
        ]
    spread = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    if spread:
        low = alt.Y("low:Q", title=metric, scale=scale, axis=axis)
        bars = alt.Chart(data(spread)).mark_rule(strokeWidth=1.5)
        layers.append(bars.encode(x=size, y=low, y2="high:Q", color=colour))
    points = alt.Chart(data(rows)).mark_point(size=95, filled=True, opacity=1)
    layers.append(points.encode(x=size, y=score, color=colour, shape=shape, tooltip=tooltip))
    named = [row for row in rows if row.get("label")]
    if named:
        text = alt.Chart(data(named)).mark_text(dx=9, dy=-9, align="left", fontSize=12, fontWeight=600, color=INK)
        layers.append(text.encode(x=size, y=score, text="label:N"))
    return alt.layer(*layers).properties(width="container", height=height)


def files_with_lines(rows: Rows) -> list[str]:
    """The files that have a line of their own in `quality_chart`: none if there would be one, or too many."""
    counts = Counter(str(row["file"]) for row in rows if row["kind"] != "mixed")
    files = [file for file, count in counts.items() if count > 1]
    return files if 1 < len(files) <= len(DASHES) else []


def _file_lines(rows: Rows, size: alt.X, score: alt.Y) -> list[alt.Chart]:
    """Where there are several files, a thin line through the uniform and striped bitmaps of each."""
    plain = [row for row in rows if row["kind"] != "mixed"]
    files = files_with_lines(rows)
    if not files:
        return []
    dash = alt.StrokeDash(
        "file:N",
        scale=alt.Scale(domain=files, range=list(DASHES[: len(files)])),
        legend=alt.Legend(
            title="File",
            orient="bottom",
            columns=alt.ExprRef("max(1, floor(width / 170))"),
            symbolStrokeColor=MUTED,
            symbolSize=400,
        ),
    )
    lines = alt.Chart(data([row for row in plain if row["file"] in files])).mark_line(
        color=MUTED, strokeWidth=1.2, opacity=0.8
    )
    return [lines.encode(x=size, y=score, strokeDash=dash, detail="adapters:N", order=alt.Order("weight_mb:Q"))]


COSTS = {"weight_mb": "Size of the weights (MB)", "average_bits": "Average bits"}
"""Fields that can lie across, and what each is."""


def size_axis(rows: Rows, field: str = "weight_mb", title: str = "") -> alt.X:
    """Weight MB, or another field (of `COSTS`, or with a title), across: not from zero, a number every 80 pixels.

    Where all rows have one value, the axis reaches a tenth to either side of it, so that its numbers are true.
    """
    ticks = alt.Axis(tickCount=alt.ExprRef("ceil(width / 80)"))
    values = {row[field] for row in rows}
    around = [factor * value for value in values for factor in (0.9, 1.1)] if len(values) == 1 else alt.Undefined
    scale = alt.Scale(zero=False, nice=False, padding=22, domain=around)
    return alt.X(f"{field}:Q", title=title or COSTS[field], scale=scale, axis=ticks)


def bits_colour(rows: Rows, title: str = "Average bits") -> alt.Color:
    """Mean width by colour, with its key: the widths themselves where there are a few, else some on the way."""
    averages = [row["average_bits"] for row in rows]
    widths = sorted(set(averages))
    if not 0 < len(widths) <= 6 or any(width % 1 for width in widths):
        widths = [2, 4, 8] + ([16] if max(averages, default=0) > 8 else [])
    legend = alt.Legend(title=title, type="symbol", values=widths, symbolType="square")
    return alt.Color("average_bits:Q", scale=width_scale(averages), legend=legend)


def front_line(rows: Rows, size: alt.X, score: alt.Y, field: str = "weight_mb") -> list[alt.Chart]:
    """The front as a staircase: what is reached at a size is kept at every larger one."""
    front = [row for row in rows if row["front"]]
    if len(front) < 2:
        return []
    line = alt.Chart(data(front)).mark_line(color=INK, strokeWidth=1.5, opacity=0.75, interpolate="step-after")
    return [line.encode(x=size, y=score, order=alt.Order(f"{field}:Q"))]


def percent_scale(values: Sequence[float]) -> alt.Scale:
    """A scale round some percentages that does not leave 0 to 100 by more than room for a mark."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    room = max(0.08 * (high - low), 1.0)
    return alt.Scale(domain=[max(low - room, -2.0), min(high + room, 102.0)], nice=False, zero=False)


def log_axis(values: Sequence[float], reverse: bool = False) -> tuple[alt.Scale, alt.Axis]:
    """A logarithmic scale round some positive values, with round numbers at its ticks, the lowest above if `reverse`.

    Where some are zero, the scale is linear below the lowest that is not, or below a millionth of the highest.
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low <= 0:
        return _log_axis_from_zero(values, reverse)
    ticks = [value for value in _round_values(values) if low <= value <= high]
    form = "~s" if low >= 1 and len(ticks) > 1 else "~g"  # 10k, but not 1m for a thousandth
    axis = alt.Axis(values=_round_values(values), format=form) if len(ticks) > 1 else alt.Axis(tickCount=5, format=form)
    margin = max((high / low) ** 0.08, 1.005)
    return alt.Scale(type="log", nice=False, domain=[low / margin, high * margin], reverse=reverse), axis


def _log_axis_from_zero(values: Sequence[float], reverse: bool) -> tuple[alt.Scale, alt.Axis]:
    high = max(values, default=0.0)
    if high <= 0:
        return alt.Scale(zero=False, padding=16, reverse=reverse), alt.Axis()
    least = max(min(value for value in values if value > 0), high / 1e6)
    powers = range(math.ceil(math.log10(least)), math.floor(math.log10(high)) + 1)
    ticks = alt.Axis(values=[0.0, *(10.0**power for power in powers)], format="~g")
    return alt.Scale(type="symlog", constant=least, nice=False, padding=16, reverse=reverse), ticks


def _round_values(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten within the range of positive values, or of a wide range the powers alone."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    return [step * 10.0**power for power in powers for step in steps]


def _tooltip(rows: Rows, metric: str) -> list[alt.Tooltip]:
    offered = {
        "bitmap": ("Bitmap", "N", None),
        "file": ("File", "N", None),
        "adapters": ("Adapters", "N", None),
        "value": (metric, "Q", ",.2f"),
        "before": (f"{metric}, before training", "Q", ",.2f"),
        "kept": ("Kept of 16 bits (%)", "Q", ".1f"),
        "low": ("95 % interval, from", "Q", ",.2f"),
        "high": ("to", "Q", ",.2f"),
        "average_bits": ("Average bits", "Q", ".2f"),
        "weight_mb": ("Size (MB)", "Q", ",.2f"),
    }
    return [
        alt.Tooltip(f"{name}:{kind}", title=title, format=form or alt.Undefined)
        for name, (title, kind, form) in offered.items()
        if any(row.get(name) is not None for row in rows)
    ]
