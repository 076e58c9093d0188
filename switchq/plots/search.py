"""What a search tried: every bitmap by size and score, and the path that a greedy search took through them."""

import altair as alt

from switchq.plots.palette import MUTED
from switchq.plots.quality import bits_colour, front_line, log_axis, percent_scale, size_axis
from switchq.plots.rows import AnyChart, Rows, data

VERDICTS = ("accepted", "rejected", "tried")

_CROSS = "M-.7,-.7L.7,.7M-.7,.7L.7,-.7"


def search_chart(
    rows: Rows, metric: str, higher_is_better: bool = True, cost: str = "weight_mb", height: int = 340
) -> AnyChart:
    """Tried bitmaps, and the path of the accepted ones from wide to narrow.

    Args:
        rows: in order: `step` (from 1), `method`, `shown` (the bitmap, short), `average_bits`, `weight_mb`,
            `value`, `verdict` (one of `VERDICTS`), `front` (whether nothing beats it), `path` (whether it belongs to a
            greedy path), `questions` (how many the score is from, or None; the path runs through those with most).
        metric: what the score is, with its unit.
        higher_is_better: false for a perplexity or a divergence, whose axis is logarithmic and points down.
        cost: what lies across, `weight_mb` or `average_bits`.
        height: of the plot, pixels.
    """
    size, score = size_axis(rows, cost), _score(rows, metric, higher_is_better)
    layers = front_line(rows, size, score, cost)
    path = [row for row in asked_most(rows) if row["path"] and row["verdict"] == "accepted"]
    if len(path) > 1:
        line = alt.Chart(data(path)).mark_line(color=MUTED, strokeWidth=1.2, strokeDash=[4, 3])
        layers.append(
            line.encode(x=size, y=score, order=alt.Order("average_bits:Q", sort="descending"), detail="method:N")
        )
    return alt.layer(*layers, *_marks(rows, size, score, metric)).properties(width="container", height=height)


def path_chart(rows: Rows, metric: str, higher_is_better: bool = True, height: int = 220) -> AnyChart:
    """A greedy search step by step: the score of each bitmap from wide to narrow, the accepted ones joined.

    Args:
        rows: as for `search_chart`, of one method, with `step` counted from wide to narrow.
        metric: what the score is, with its unit.
        higher_is_better: as for `search_chart`.
        height: of the plot, pixels.
    """
    step = alt.X(
        "step:Q",
        title="Bitmap, from wide to narrow",
        scale=alt.Scale(nice=False, padding=12),
        axis=alt.Axis(tickMinStep=1, format="d"),
    )
    score = _score(rows, metric, higher_is_better)
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    line = alt.Chart(data(accepted)).mark_line(color=MUTED, strokeWidth=1.5, interpolate="step-after")
    layers = [line.encode(x=step, y=score), *_marks(rows, step, score, metric)]
    return alt.layer(*layers).properties(width="container", height=height)


def asked_most(rows: Rows) -> Rows:
    """The rows whose scores are from as many questions as any: only they can be compared."""
    most = max((row["questions"] for row in rows if row["questions"] is not None), default=None)
    return [row for row in rows if row["questions"] == most]


def _score(rows: Rows, metric: str, higher_is_better: bool) -> alt.Y:
    values = [row["value"] for row in rows]
    scale, axis = (percent_scale(values), alt.Axis()) if higher_is_better else log_axis(values, reverse=True)
    return alt.Y("value:Q", title=metric, scale=scale, axis=axis)


def _marks(rows: Rows, across: alt.X, score: alt.Y, metric: str) -> list[alt.Chart]:
    """Accepted ones filled, rejected ones as grey crosses, the others hollow."""
    there = [verdict for verdict in VERDICTS if any(row["verdict"] == verdict for row in rows)]
    shapes = {"accepted": "circle", "rejected": _CROSS, "tried": "circle"}
    shape = alt.Shape(
        "verdict:N",
        scale=alt.Scale(domain=there, range=[shapes[verdict] for verdict in there]),
        legend=alt.Legend(title=None, symbolStrokeColor=MUTED, symbolStrokeWidth=1.5) if len(there) > 1 else None,
    )
    tooltip = [
        alt.Tooltip("step:Q", title="Trial"),
        alt.Tooltip("method:N", title="Method"),
        alt.Tooltip("verdict:N", title="Verdict"),
        alt.Tooltip("shown:N", title="Bitmap"),
        alt.Tooltip("value:Q", title=metric, format=",.3f"),
        alt.Tooltip("questions:Q", title="Questions"),
        alt.Tooltip("average_bits:Q", title="Average bits", format=".2f"),
        alt.Tooltip("weight_mb:Q", title="Size (MB)", format=",.2f"),
    ]
    colour = bits_colour(rows)
    marks = []
    for verdict in reversed(there):
        own = alt.Chart(data([row for row in rows if row["verdict"] == verdict]))
        drawn = own.mark_point(size=60, filled=verdict == "accepted", opacity=1, strokeWidth=1.4)
        if verdict == "rejected":
            drawn = own.mark_point(size=60, filled=False, opacity=1, strokeWidth=1.4, color=MUTED)
        marked = drawn.encode(x=across, y=score, shape=shape, tooltip=tooltip)
        marks.append(marked if verdict == "rejected" else marked.encode(color=colour))
    return marks
