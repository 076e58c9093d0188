"""What a search tried: every bitmap by size and score, and the path that a greedy search took through them."""

import altair as alt

from switchq.plots.palette import FAINT, INK, MUTED, width_colour
from switchq.plots.rows import AnyChart, Rows, data

VERDICTS = ("accepted", "rejected", "tried")


def search_chart(rows: Rows, metric: str, higher_is_better: bool = True, height: int = 340) -> AnyChart:
    """Tried bitmaps and the path of the accepted ones, in the order in which they were tried.

    Args:
        rows: in order: `step` (from 1), `method`, `bitmap`, `average_bits`, `weight_mb`, `value`, `verdict` (one of
            `VERDICTS`), `front` (whether nothing beats it), `path` (whether it belongs to a greedy path).
        metric: what the score is, with its unit.
        higher_is_better: false for a perplexity or a divergence.
        height: of the plot, pixels.
    """
    points = [{**row, "colour": width_colour(row["average_bits"])} for row in rows]
    size = alt.X("weight_mb:Q", title="Size of the weights (MB)", scale=alt.Scale(zero=False, padding=14))
    score = alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False, padding=14, reverse=not higher_is_better))
    layers: list[alt.Chart] = []
    front = [row for row in points if row["front"]]
    if len(front) > 1:
        layers.append(
            alt.Chart(data(front))
            .mark_line(color=INK, strokeWidth=1.5, opacity=0.75, interpolate="step-after")
            .encode(x=size, y=score, order=alt.Order("weight_mb:Q"))
        )
    path = [row for row in points if row["path"] and row["verdict"] == "accepted"]
    if len(path) > 1:
        layers.append(
            alt.Chart(data(path))
            .mark_line(color=MUTED, strokeWidth=1.2, strokeDash=[4, 3])
            .encode(x=size, y=score, order=alt.Order("step:Q"), detail="method:N")
        )
    layers.append(
        alt.Chart(data(points))
        .mark_point(size=55, strokeWidth=1.4)
        .encode(
            x=size,
            y=score,
            stroke=alt.condition(alt.datum.verdict == "rejected", alt.value(MUTED), alt.Stroke("colour:N", scale=None)),
            fill=alt.condition(
                alt.datum.verdict == "accepted", alt.Fill("colour:N", scale=None), alt.value("transparent")
            ),
            shape=alt.Shape(
                "verdict:N",
                scale=alt.Scale(domain=list(VERDICTS), range=["circle", "cross", "circle"]),
                legend=alt.Legend(title=None, symbolStrokeColor=MUTED),
            ),
            tooltip=[
                alt.Tooltip("step:Q", title="Order"),
                alt.Tooltip("method:N", title="Method"),
                alt.Tooltip("verdict:N", title="Verdict"),
                alt.Tooltip("shown:N", title="Bitmap"),
                alt.Tooltip("value:Q", title=metric, format=",.3f"),
                alt.Tooltip("average_bits:Q", title="Average bits", format=".2f"),
                alt.Tooltip("weight_mb:Q", title="Size (MB)", format=",.2f"),
            ],
        )
    )
    return alt.layer(*layers).properties(width="container", height=height)


def path_chart(rows: Rows, metric: str, height: int = 220) -> AnyChart:
    """A greedy search step by step: the score of each trial in order, the accepted ones joined.

    Args:
        rows: as for `search_chart`, of one method.
        metric: what the score is, with its unit.
        height: of the plot, pixels.
    """
    points = [{**row, "colour": width_colour(row["average_bits"])} for row in rows]
    step = alt.X(
        "step:Q",
        title="Trial, in the order made",
        scale=alt.Scale(nice=False, padding=10),
        axis=alt.Axis(tickMinStep=1),
    )
    score = alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False, padding=14))
    accepted = [row for row in points if row["verdict"] == "accepted"]
    line = (
        alt.Chart(data(accepted))
        .mark_line(color=MUTED, strokeWidth=1.5, interpolate="step-after")
        .encode(x=step, y=score)
    )
    marks = (
        alt.Chart(data(points))
        .mark_point(size=50, strokeWidth=1.4)
        .encode(
            x=step,
            y=score,
            stroke=alt.condition(alt.datum.verdict == "rejected", alt.value(MUTED), alt.Stroke("colour:N", scale=None)),
            fill=alt.condition(
                alt.datum.verdict == "accepted", alt.Fill("colour:N", scale=None), alt.value("transparent")
            ),
            shape=alt.Shape(
                "verdict:N",
                scale=alt.Scale(domain=list(VERDICTS[:2]), range=["circle", "cross"]),
                legend=alt.Legend(title=None, symbolStrokeColor=MUTED, symbolFillColor=FAINT),
            ),
            tooltip=[
                alt.Tooltip("step:Q", title="Trial"),
                alt.Tooltip("verdict:N", title="Verdict"),
                alt.Tooltip("shown:N", title="Bitmap"),
                alt.Tooltip("value:Q", title=metric, format=",.3f"),
                alt.Tooltip("average_bits:Q", title="Average bits", format=".2f"),
                alt.Tooltip("weight_mb:Q", title="Size (MB)", format=",.2f"),
            ],
        )
    )
    return alt.layer(line, marks).properties(width="container", height=height)
