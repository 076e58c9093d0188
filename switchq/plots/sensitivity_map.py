"""Sensitivities as heat maps: blocks across, linears of a block down; one row of panels a score, one panel a width."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

Rows = Sequence[Mapping[str, Any]]

TITLES = {
    "mse": "MSE of the output",
    "mae": "MAE of the output",
    "kl": "KL of the logits, nats",
    "fisher": "Fisher-weighted error, nats",
}
"""What the known scores are called; another one goes by its own name."""

PANEL = 250
"""Pixels that a panel should be wide at least."""

ROW = 22
"""Pixels of a row."""

MOST_LABELS = 16
"""Blocks of a panel that are labelled."""

OUTSIDE = "other"
"""The column of layers that belong to no block."""


def sensitivity_map(rows: Rows, title: str = "") -> alt.VConcatChart:
    """One cell per layer, width and score, on a logarithmic colour scale of its own for each score.

    Zeros have no place on such a scale and stay white; what is not finite is black.

    Args:
        rows: one per cell, layers in model order: `layer` (dotted name), `bits`, `score` (its name), `value`.
        title: of the whole.
    """
    names = list(dict.fromkeys(str(row["layer"]) for row in rows))
    blocks = list(dict.fromkeys(split_layer(name)[0] for name in names))
    linears = list(dict.fromkeys(split_layer(name)[1] for name in names))
    widths = sorted({int(row["bits"]) for row in rows}, reverse=True)
    cell = max(PANEL // len(blocks), 12)
    shown = blocks[:: math.ceil(len(blocks) / MOST_LABELS)]
    panels = []
    for score in dict.fromkeys(str(row["score"]) for row in rows):
        cells = [_cell(row) for row in rows if row["score"] == score]
        low, high = _domain([one["value"] for one in cells if one["value"] is not None])
        base = alt.Chart(alt.Data(values=cells)).encode(
            x=alt.X(
                "block:O",
                title="block",
                sort=blocks,
                axis=alt.Axis(values=shown, labelAngle=0, ticks=False, domain=False),
            ),
            y=alt.Y("linear:O", title=None, sort=linears, axis=alt.Axis(ticks=False, domain=False, labelLimit=180)),
            tooltip=["layer:N", "width:N", alt.Tooltip("value:Q", format=".4g")],
        )
        colour = alt.Color(
            "value:Q",
            scale=alt.Scale(type="log", scheme="viridis", domain=[low, high], nice=False),
            legend=alt.Legend(
                title=TITLES.get(score, score),
                titleLimit=220,
                values=_ticks(low, high),
                format=".0e",
                gradientLength=ROW * len(linears),
            ),
        )
        heat = alt.layer(
            base.transform_filter("isValid(datum.value)").mark_rect().encode(color=colour),
            base.transform_filter("datum.broken").mark_rect(color="black"),
        ).properties(width=cell * len(blocks), height=ROW * len(linears))
        panels.append(heat.facet(column=alt.Column("width:N", sort=[f"{bits} bits" for bits in widths], title=None)))
    chart = alt.vconcat(*panels).resolve_scale(color="independent").properties(title=title, background="white")
    return chart.configure_view(stroke="#dddddd").configure_title(anchor="start").configure_axis(grid=False)


def split_layer(name: str) -> tuple[str, str]:
    """The block that a layer belongs to and its name there.

    >>> split_layer("transformer.h.3.attn.c_attn")
    ('3', 'attn.c_attn')
    >>> split_layer("lm_head")
    ('other', 'lm_head')
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return part, ".".join(parts[place + 1 :])
    return OUTSIDE, name


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    block, linear = split_layer(str(row["layer"]))
    value = row["value"]
    broken = value is None or not math.isfinite(value)
    return {
        "layer": row["layer"],
        "block": block,
        "linear": linear,
        "width": f"{row['bits']} bits",
        "value": None if broken or value <= 0 else value,
        "broken": broken,
    }


def _domain(values: Sequence[float]) -> list[float]:
    """The ends of the colour scale; a single value gets a scale around it."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    return [low, high] if low < high else [low / 2, high * 2]


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Powers of ten for the legend, or the ends where it holds fewer than two."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    powers = range(first, last + 1, max(math.ceil((last - first + 1) / most), 1))
    return [10.0**power for power in powers] if len(powers) > 1 else [low, high]
