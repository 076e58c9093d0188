"""Quality against size: points by bit-width and kind of bitmap, the front through the best of them."""

import altair as alt

from switchq.plots.palette import INK, MUTED, width_colour
from switchq.plots.rows import AnyChart, Rows, data

KINDS = ("uniform", "striped", "mixed")
SHAPES = ("circle", "diamond", "triangle-up")


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
    points = [{**row, "colour": width_colour(row["average_bits"])} for row in rows]
    logarithmic = not higher_is_better and all(row["value"] > 0 for row in rows)
    scale = alt.Scale(type="log", nice=False, padding=12) if logarithmic else alt.Scale(zero=False, padding=16)
    size = alt.X("weight_mb:Q", title="Size of the weights (MB)", scale=alt.Scale(zero=False, padding=22))
    score = alt.Y("value:Q", title=metric, scale=scale)
    layers: list[alt.Chart] = []
    front = [row for row in points if row["front"]]
    if len(front) > 1:
        layers.append(
            alt.Chart(data(front))
            .mark_line(color=INK, strokeWidth=1.5, opacity=0.75, interpolate="step-after")
            .encode(x=size, y=score, order=alt.Order("weight_mb:Q"))
        )
    changed = [row for row in points if row.get("before") is not None]
    if changed:
        layers.append(
            alt.Chart(data(changed)).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=size, y=score, y2="before:Q")
        )
        layers.append(
            alt.Chart(data(changed))
            .mark_point(size=60, filled=False, strokeWidth=1.5)
            .encode(
                x=size,
                y=alt.Y("before:Q", title=metric, scale=scale),
                color=alt.Color("colour:N", scale=None),
                shape=_shape(None),
                tooltip=_tooltip(changed, metric),
            )
        )
    spread = [row for row in points if row.get("low") is not None and row.get("high") is not None]
    if spread:
        layers.append(
            alt.Chart(data(spread))
            .mark_rule(strokeWidth=1.5)
            .encode(
                x=size,
                y=alt.Y("low:Q", title=metric, scale=scale),
                y2="high:Q",
                color=alt.Color("colour:N", scale=None),
            )
        )
    layers.append(
        alt.Chart(data(points))
        .mark_point(size=95, filled=True, opacity=1)
        .encode(
            x=size,
            y=score,
            color=alt.Color("colour:N", scale=None),
            shape=_shape(alt.Legend(title=None, symbolFillColor=MUTED, symbolStrokeColor=MUTED)),
            tooltip=_tooltip(points, metric),
        )
    )
    named = [row for row in points if row.get("label")]
    if named:
        layers.append(
            alt.Chart(data(named))
            .mark_text(dy=-12, fontSize=12, fontWeight=600, color=INK)
            .encode(x=size, y=score, text="label:N")
        )
    return alt.layer(*layers).properties(width="container", height=height)


def _shape(legend: alt.Legend | None) -> alt.Shape:
    return alt.Shape("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(SHAPES)), legend=legend)


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
