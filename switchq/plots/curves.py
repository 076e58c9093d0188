"""Training curves: a smoothed line over the faint raw one, in the colour of its bitmap's mean width."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from switchq.plots.palette import INK, width_colour
from switchq.plots.quality import log_axis
from switchq.plots.rows import AnyChart, data

Curve = Sequence[tuple[int, float]]

LONGEST = 600
"""Points of a curve that are drawn; a longer one is thinned out evenly."""


def smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average, corrected for its start: `weight` of the old value, the rest of the new one."""
    smoothed, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + 1 - weight
        smoothed.append(total / norm)
    return smoothed


def thin(curve: Curve, longest: int = LONGEST) -> list[tuple[int, float]]:
    """At most `longest` points of the curve, its ends among them."""
    if len(curve) <= longest:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (longest - 1))] for i in range(longest)]


def curve_chart(
    curves: Mapping[str, Curve], bits: Mapping[str, float], title: str, height: int = 220, logarithmic: bool = False
) -> AnyChart:
    """One line per bitmap.

    Args:
        curves: label of the bitmap -> (optimiser step, value); values are finite.
        bits: label -> mean width, which gives the colour; a label without one is drawn in ink.
        title: of the y axis, with its unit.
        height: of the plot, pixels.
        logarithmic: whether the y axis is; only where all values are positive.
    """
    labels = sorted(curves, key=lambda label: -bits.get(label, 99))
    long = max((len(curve) for curve in curves.values()), default=0) > 25
    rows: list[dict[str, Any]] = []
    for label in labels:
        curve = curves[label]
        smoothed = smooth([value for _, value in curve])
        drawn = thin([(i, float(step)) for i, (step, _) in enumerate(curve)])
        rows += [{"bitmap": label, "step": step, "raw": curve[i][1], "smooth": smoothed[i]} for i, step in drawn]
    log = logarithmic and all(row["raw"] > 0 for row in rows)
    scale, axis = log_axis([row["raw"] for row in rows]) if log else (alt.Scale(zero=False), alt.Axis())
    named = len(labels) > 1 or bool(bits.keys() & labels)
    legend = alt.Legend(title="Bitmap", symbolType="stroke") if named else None
    base = alt.Chart(data(rows)).encode(
        x=alt.X("step:Q", title="Optimiser step", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1)),
        color=alt.Color(
            "bitmap:N",
            sort=labels,
            scale=alt.Scale(domain=labels, range=[width_colour(bits[one]) if one in bits else INK for one in labels]),
            legend=legend,
        ),
        strokeDash=alt.StrokeDash(
            "bitmap:N", sort=labels, legend=legend,
            scale=alt.Scale(domain=labels, range=[[1, 0] if "/" not in one else [5, 3] for one in labels]),
        ),
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("bitmap:N", title="Bitmap"),
        alt.Tooltip("step:Q", title="Step"),
        alt.Tooltip("raw:Q", title=title, format=".4g"),
    ]
    raw = base.encode(y=alt.Y("raw:Q", title=title, scale=scale, axis=axis))
    if not long:
        return alt.layer(
            raw.mark_line(strokeWidth=1.8), raw.mark_point(filled=True, size=36, opacity=1).encode(tooltip=tooltip)
        ).properties(width="container", height=height)
    return alt.layer(
        raw.mark_line(strokeWidth=1, opacity=0.25),
        base.mark_line(strokeWidth=2).encode(y=alt.Y("smooth:Q", title=title, scale=scale, axis=axis)),
        raw.mark_point(opacity=0, size=60).encode(tooltip=tooltip),
    ).properties(width="container", height=height)
