"""Which layer has which width: blocks across, the linears of a block down."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from switchq.plots.layers import layout
from switchq.plots.palette import width_colour
from switchq.plots.rows import AnyChart, data


def bit_strip(bits: Sequence[int], names: Sequence[str]) -> AnyChart:
    """A bitmap as coloured cells.

    Args:
        bits: one width per layer, in model order.
        names: of the layers; where they are unknown, their numbers.
    """
    places = layout(names)
    rows: list[dict[str, Any]] = [
        {"layer": name, "block": block, "linear": linear, "bits": width, "order": index}
        for index, (name, width, (block, linear)) in enumerate(zip(names, bits, places, strict=True))
    ]
    if len({place for place in places}) < len(places) or len({linear for _, linear in places}) == len(places):
        rows = [{**row, "block": str(row["order"]), "linear": "layer"} for row in rows]
    linears = list(dict.fromkeys(row["linear"] for row in rows))
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    widths = sorted(set(bits), reverse=True)
    return (
        alt.Chart(data(rows))
        .mark_rect(strokeWidth=0)
        .encode(
            x=alt.X(
                "block:O",
                title="Block" if len(linears) > 1 else "Layer, in model order",
                sort=blocks,
                axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
                scale=alt.Scale(paddingInner=0.06),
            ),
            y=alt.Y(
                "linear:N",
                title=None,
                sort=linears,
                axis=alt.Axis(ticks=False, domain=False),
                scale=alt.Scale(paddingInner=0.1),
            ),
            color=alt.Color(
                "bits:O",
                scale=alt.Scale(domain=widths, range=[width_colour(width) for width in widths]),
                legend=alt.Legend(title="Bits", symbolType="square"),
            ),
            tooltip=[alt.Tooltip("layer:N", title="Layer"), alt.Tooltip("bits:Q", title="Bits")],
        )
        .properties(width="container", height=max(24 * len(linears), 32))
    )
