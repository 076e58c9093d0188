"""Sensitivity as a heat map: blocks across; down, the linears of a block at each width."""

import math

import altair as alt

from switchq.plots.layers import brief, layout
from switchq.plots.palette import INK, ON_HEAT
from switchq.plots.render import WIDTH
from switchq.plots.rows import AnyChart, Rows, data

TITLES = {
    "mse": "MSE of the output",
    "mae": "MAE of the output",
    "kl": "KL of the logits (nats)",
    "fisher": "Fisher-weighted error (nats)",
}
"""What the known scores are called; another one goes by its own name."""


def heat_map(rows: Rows, title: str = "Score") -> AnyChart:
    """One cell per layer and width.

    Args:
        rows: one per cell: `layer`, `bits`, `score` (None or infinite where it was not finite), in model order.
        title: what the score is, for the legend.
    """
    finite = [row["score"] for row in rows if row["score"] is not None and math.isfinite(row["score"])]
    names = list(dict.fromkeys(row["layer"] for row in rows))
    places = dict(zip(names, layout(names)))
    by_block = len({linear for _, linear in places.values()}) < len(names) == len(set(places.values()))
    shown = brief([linear for _, linear in places.values()])
    widths = sorted({int(row["bits"]) for row in rows}, reverse=True)
    cells = []
    for row in rows:
        block, linear = places[row["layer"]]
        cells.append(
            {
                "layer": row["layer"],
                "bits": int(row["bits"]),
                "score": row["score"] if row["score"] is not None and math.isfinite(row["score"]) else None,
                "column": block if by_block else str(names.index(row["layer"])),
                "row": f"{row['bits']} · {shown[linear]}" if by_block else f"{row['bits']} bits",
            }
        )
    linears = list(dict.fromkeys(linear for _, linear in places.values()))
    order = [f"{width} · {shown[name]}" for width in widths for name in linears]
    positive = bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 100
    return (
        alt.Chart(data(cells))
        .mark_rect()
        .encode(
            x=alt.X(
                "column:O",
                title="Block" if by_block else "Layer, in model order",
                sort=list(dict.fromkeys(cell["column"] for cell in cells)),
                axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
            ),
            y=alt.Y(
                "row:O",
                title="Bits · linear" if by_block else None,
                sort=order if by_block else [f"{width} bits" for width in widths],
                axis=alt.Axis(ticks=False, domain=False),
            ),
            color=alt.Color(
                "score:Q",
                scale=alt.Scale(type="log" if positive else "linear", range="heatmap"),
                legend=_decades(title, min(finite), max(finite))
                if positive
                else alt.Legend(title=title, format="~g", tickCount=4),
            ),
            tooltip=[
                alt.Tooltip("layer:N", title="Layer"),
                alt.Tooltip("bits:Q", title="Bits"),
                alt.Tooltip("score:Q", title=title, format=".4g"),
            ],
        )
        .properties(width="container", height=(17 if by_block else 30) * len({cell["row"] for cell in cells}))
    )


def _decades(title: str, low: float, high: float) -> alt.Legend:
    """The legend of a logarithmic scale: at most four powers of ten, evenly spaced and written alike."""
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [10.0**exponent for exponent in exponents[:: math.ceil(len(exponents) / 4)]]
    return alt.Legend(title=title, values=ticks, format="~e" if ticks[0] < 1e-3 else "~g")


def sensitivity_map(rows: Rows, title: str = "") -> alt.VConcatChart:
    """The heat maps of several scores, one above the other, each with a colour scale of its own: one picture.

    Args:
        rows: one per cell, as `heat_map` takes them, with the score under `value` and its name under `score`.
        title: of the whole.
    """
    maps = [
        heat_map(
            [{**row, "score": row["value"]} for row in rows if row["score"] == name], TITLES.get(name, name)
        ).properties(width=WIDTH)
        for name in dict.fromkeys(str(row["score"]) for row in rows)
    ]
    return alt.vconcat(*maps).resolve_scale(color="independent").properties(title=title)


def correlation_map(correlations: dict[str, dict[str, float | None]]) -> AnyChart:
    """Rank correlations between scores as a matrix with the figures written in."""
    names = list(dict.fromkeys([*correlations, *(other for row in correlations.values() for other in row)]))
    rows = [
        {"one": one, "other": other, "value": value}
        for one in names
        for other in names
        for value in [
            1.0 if one == other else correlations.get(one, {}).get(other, correlations.get(other, {}).get(one))
        ]
    ]
    cells = alt.Chart(data(rows)).encode(
        x=alt.X("one:N", title=None, sort=names, axis=alt.Axis(labelAngle=-30, ticks=False, domain=False)),
        y=alt.Y("other:N", title=None, sort=names, axis=alt.Axis(ticks=False, domain=False)),
    )
    colour = alt.Color("size:Q", scale=alt.Scale(domain=[0, 1], range="heatmap"), legend=None)
    return alt.layer(
        cells.transform_calculate(size="abs(datum.value)")
        .mark_rect()
        .encode(color=colour, tooltip=["one:N", "other:N", alt.Tooltip("value:Q", title="Spearman", format=".3f")]),
        cells.transform_filter("isValid(datum.value)")
        .mark_text(fontSize=12, color=INK)
        .encode(
            text=alt.Text("value:Q", format=".2f"),
            color=alt.condition("abs(datum.value) > 0.5", alt.value(ON_HEAT), alt.value(INK)),
        ),
    ).properties(width="container", height=max(40 * len(names), 80))
