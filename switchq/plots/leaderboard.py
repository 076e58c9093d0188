"""Methods of post-training quantisation: a score against effective bits, one line per method."""

import altair as alt

from switchq.plots.palette import INK, MUTED
from switchq.plots.quality import DASHES, bits_colour, log_axis, size_axis
from switchq.plots.rows import AnyChart, Rows, data

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")


def leaderboard_chart(
    rows: Rows, metric: str, higher_is_better: bool, full: float | None, height: int = 360
) -> AnyChart:
    """A score against effective bits.

    Args:
        rows: one per method and width: `method`, `effective_bits`, `average_bits` (the width, which gives the colour)
            and `value`.
        metric: what the score is, with its unit, for the axis.
        higher_is_better: false for a perplexity, whose axis is logarithmic.
        full: the score in full precision, drawn across; None where it is not known.
        height: of the plot, pixels.
    """
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    values = [float(row["value"]) for row in rows] + ([] if full is None else [full])
    scale, axis = log_axis(values) if not higher_is_better else (alt.Scale(zero=False, padding=16), alt.Axis())
    x = size_axis(rows, "effective_bits", "Effective bits")
    y = alt.Y("value:Q", title=metric, scale=scale, axis=axis)
    legend = alt.Legend(
        title="Method",
        symbolFillColor=MUTED,
        symbolStrokeColor=MUTED,
        symbolStrokeWidth=0,  # the dashes of a line round its symbol would tear the edge
        symbolSize=90,
        columns=alt.ExprRef("max(2, floor(width / 150))"),
    )
    dash = alt.StrokeDash(
        "method:N",
        sort=methods,
        scale=alt.Scale(domain=methods, range=[list(DASHES[i % len(DASHES)]) for i in range(len(methods))]),
        legend=legend,
    )
    shape = alt.Shape(
        "method:N",
        sort=methods,
        scale=alt.Scale(domain=methods, range=[SHAPES[i % len(SHAPES)] for i in range(len(methods))]),
        legend=legend,
    )
    tooltip = [
        alt.Tooltip("method:N", title="Method"),
        alt.Tooltip("effective_bits:Q", title="Effective bits", format=".2f"),
        alt.Tooltip("value:Q", title=metric, format=",.2f"),
    ]
    base = alt.Chart(data(rows))
    layers = [
        base.mark_line(color=MUTED, strokeWidth=1.3).encode(x=x, y=y, strokeDash=dash),
        base.mark_point(size=90, filled=True, opacity=1).encode(
            x=x, y=y, shape=shape, color=bits_colour(rows, "Bits"), tooltip=tooltip
        ),
    ]
    if full is not None:
        across = alt.Chart(data([{"value": full}])).mark_rule(color=INK, strokeDash=[2, 3])
        layers.append(across.encode(y=y, tooltip=[alt.Tooltip("value:Q", title="Full precision", format=",.2f")]))
    return alt.layer(*layers).properties(width="container", height=height)
