"""How far each way of carrying statistics falls short of the target's own calibration."""

import altair as alt

from switchq.plots.palette import INK
from switchq.plots.quality import bits_colour
from switchq.plots.rows import AnyChart, Rows, data


def gap_chart(rows: Rows, task: str) -> AnyChart:
    """Gaps in percent with their intervals, a line for each strategy, widths below each other in it.

    Args:
        rows: one per strategy and width: `strategy`, `average_bits` (the width, which gives the colour), `gap`, `low`
            and `high` in percent, `verdict`.
        task: the text set, for the axis.
    """
    names = list(dict.fromkeys(str(row["strategy"]) for row in rows))
    widths = sorted({float(row["average_bits"]) for row in rows}, reverse=True)
    y = alt.Y("strategy:N", sort=names, title=None, axis=alt.Axis(grid=True, tickBand="extent", labelLimit=200))
    offset = alt.YOffset("average_bits:O", sort=widths)
    title = f"Transfer gap on {task} (%)"
    scale = alt.Scale(type="symlog", constant=5)
    ticks = alt.Axis(values=[-20, -10, -5, 0, 5, 10, 20, 50, 100, 200, 500, 1000], format="~r")
    tooltip = [
        alt.Tooltip("strategy:N", title="Strategy"),
        alt.Tooltip("average_bits:Q", title="Bits"),
        alt.Tooltip("gap:Q", title="Gap (%)", format="+.2f"),
        alt.Tooltip("low:Q", title="95 % interval, from", format="+.2f"),
        alt.Tooltip("high:Q", title="to", format="+.2f"),
        alt.Tooltip("verdict:N", title="Verdict"),
    ]
    base = alt.Chart(data(rows)).encode(y=y, yOffset=offset, color=bits_colour(rows))
    layers = [
        alt.Chart(data([{"zero": 0}])).mark_rule(color=INK, strokeDash=[2, 3]).encode(x=alt.X("zero:Q", scale=scale)),
        base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"),
        base.mark_point(size=45, filled=True, opacity=1).encode(
            x=alt.X("gap:Q", title=title, scale=scale, axis=ticks), tooltip=tooltip
        ),
    ]
    return alt.layer(*layers).properties(width="container", height=(8 * len(widths) + 8) * len(names))
