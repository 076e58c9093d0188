"""Colours, one meaning each: a bit-width has its colour on every chart, and whatever is no width is ink or grey.

The ramp runs from vermilion (2 bits) over teal (4) to indigo (8) and grey (16, not quantised); neighbours differ in
lightness as well as in hue, so that they stay apart for colour-blind readers, and each colour has a contrast of 3:1 or
more against its background. A chart is made with the colours for a light page; `DARK` says which colour takes the place
of each on a dark one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt

INK, MUTED, FAINT, ON_HEAT = "#1d2127", "#6a717c", "#c9ced6", "#fcfbfd"
"""Text and main lines; what is beside the point; the barely visible; text on the strong end of `HEAT`."""

STOPS: Mapping[float, tuple[str, str]] = {
    2: ("#c23b1e", "#ff8466"),
    3: ("#a8730a", "#e9b949"),
    4: ("#14806f", "#45c9b0"),
    6: ("#2b72b8", "#6cb2f5"),
    8: ("#37409b", "#a3abff"),
    16: ("#5b6270", "#b4bbc6"),
}
"""Width -> its colour on a light page and on a dark one; between two of them, in proportion."""

HEAT = {"light": ["#f4f0f7", "#b9a3d0", "#7c4f9f", "#3c1361"], "dark": ["#26222e", "#5b4378", "#a276c8", "#f0dcff"]}
"""Ramps for a magnitude that is no width, low to high."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def width_colour(bits: float) -> str:
    """The colour of a width, or of a mean of widths to a quarter of a bit, on a light page."""
    return _colour(bits, 0)


def width_scale(averages: Iterable[float]) -> alt.Scale:
    """The same colours as a scale over mean widths, up to 8 bits or, where a mean is wider, up to 16."""
    wide = max(averages, default=0) > 8
    stops = [stop for stop in STOPS if wide or stop <= 8]
    return alt.Scale(domain=stops, range=[STOPS[stop][0] for stop in stops], clamp=True)


def _colour(bits: float, theme: int) -> str:
    quarter = min(max(round(bits * 4) / 4, 2.0), 16.0)
    lower = max(stop for stop in STOPS if stop <= quarter)
    upper = min(stop for stop in STOPS if stop >= quarter)
    share = 0.0 if upper == lower else (quarter - lower) / (upper - lower)
    pairs = zip(_channels(STOPS[lower][theme]), _channels(STOPS[upper][theme]))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


DARK: Mapping[str, str] = {
    INK: "#e8eaee",
    MUTED: "#9aa2ae",
    FAINT: "#454b55",
    ON_HEAT: "#17131c",
    **{_colour(quarter / 4, 0): _colour(quarter / 4, 1) for quarter in range(8, 65)},
}
"""Colour on a light page -> colour on a dark one."""


def config(theme: str = "light") -> dict[str, Any]:
    """Vega-Lite's `config` for a `light` or `dark` page: quiet axes, the system's font, a transparent background."""
    light = theme == "light"
    ink, muted, grid = (INK, "#4a515c", "#e6e8ec") if light else (DARK[INK], DARK[MUTED], "#2b3038")
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "domainColor": MUTED,
            "gridColor": grid,
            "tickColor": grid,
            "labelColor": muted,
            "titleColor": ink,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "titlePadding": 8,
            "labelPadding": 4,
            "labelOverlap": True,
        },
        "axisX": {"labelBound": True},
        "legend": {
            "orient": "top",
            "labelColor": ink,
            "titleColor": muted,
            "titleOrient": "left",
            "titlePadding": 10,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": 500,
            "symbolSize": 70,
            "columnPadding": 12,
            "rowPadding": 3,
            "labelLimit": 140,
            "gradientLength": 150,
            "gradientThickness": 10,
            "offset": 10,
            "layout": {"top": {"direction": "horizontal", "margin": 28}},
        },
        "range": {"heatmap": HEAT[theme], "ramp": HEAT[theme]},
    }
