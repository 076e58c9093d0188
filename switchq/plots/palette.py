"""Colours, one meaning each: a bit-width has its colour on every chart, and whatever is no width is ink or grey.

The ramp runs from indigo (8 bits) over teal (4) to vermilion (2); neighbours differ in lightness as well as in hue, so
that they stay apart for colour-blind readers, and each colour has 3:1 contrast or more against its background. A chart
is made with the colours for a light page; `DARK` says which colour takes the place of each on a dark one.
"""

from collections.abc import Mapping
from typing import Any

INK, MUTED, FAINT = "#1d2127", "#6a717c", "#c9ced6"
"""Text and main lines; what is beside the point; the barely visible."""

_STOPS: Mapping[float, tuple[str, str]] = {
    2: ("#c23b1e", "#ff8466"),
    3: ("#a8730a", "#e9b949"),
    4: ("#14806f", "#45c9b0"),
    6: ("#2b72b8", "#6cb2f5"),
    8: ("#37409b", "#a3abff"),
}
FULL = ("#5b6270", "#b4bbc6")

HEAT = {"light": ["#f4f0f7", "#b9a3d0", "#7c4f9f", "#3c1361"], "dark": ["#26222e", "#5b4378", "#a276c8", "#f0dcff"]}
"""Ramps for a magnitude that is no width, low to high."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def width_colour(bits: float) -> str:
    """The colour of a width or of a mean of widths, on a light page; 16 bits, that is unquantised, is grey."""
    return _colour(bits, 0)


def _colour(bits: float, theme: int) -> str:
    if bits > 12:
        return FULL[theme]
    quarter = min(max(round(bits * 4) / 4, 2.0), 8.0)
    lower = max(stop for stop in _STOPS if stop <= quarter)
    upper = min(stop for stop in _STOPS if stop >= quarter)
    share = 0.0 if upper == lower else (quarter - lower) / (upper - lower)
    pairs = zip(_channels(_STOPS[lower][theme]), _channels(_STOPS[upper][theme]))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


DARK: Mapping[str, str] = {
    INK: "#e8eaee",
    MUTED: "#9aa2ae",
    FAINT: "#454b55",
    **{_colour(q / 4, 0): _colour(q / 4, 1) for q in (*range(8, 33), 64)},
}
"""Colour on a light page -> colour on a dark one."""


def config(theme: str = "light") -> dict[str, Any]:
    """Vega-Lite's `config` for a `light` or `dark` page: quiet axes, the system's font, a transparent background."""
    light = theme == "light"
    ink, muted, grid = (INK, MUTED, "#e6e8ec") if light else (DARK[INK], DARK[MUTED], "#2b3038")
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "domainColor": MUTED if light else "#6a717c",
            "gridColor": grid,
            "tickColor": grid,
            "labelColor": muted if not light else "#4a515c",
            "titleColor": ink,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "titlePadding": 8,
            "labelPadding": 4,
            "labelOverlap": True,
        },
        "legend": {
            "orient": "top",
            "labelColor": ink,
            "titleColor": muted,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": 500,
            "symbolSize": 70,
            "columnPadding": 12,
            "rowPadding": 3,
            "labelLimit": 140,
        },
        "header": {"labelColor": ink, "titleColor": ink},
        "title": {"color": ink, "subtitleColor": muted},
        "text": {"fill": ink, "fontSize": 11},
        "range": {"heatmap": HEAT[theme], "ramp": HEAT[theme]},
    }
