"""A chart as SVG or PNG, without a browser."""

from typing import Any

import altair as alt
import vl_convert

from switchq.plots.palette import config

WIDTH = 720
"""Width of a plot in pixels where the page does not decide it."""


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG text, on white, for a light page."""
    return vl_convert.vegalite_to_svg(fixed(chart), allowed_base_urls=[])


def png(chart: alt.TopLevelMixin, scale: float = 2.0) -> bytes:
    """The chart as PNG, on white, with `scale` pixels to a unit of length."""
    return vl_convert.vegalite_to_png(fixed(chart), scale=scale, allowed_base_urls=[])


def fixed(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart's Vega-Lite specification with a width of its own, where it would take that of its place on a page."""
    spec: dict[str, Any] = chart.to_dict()
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    spec["config"] = {**config("light"), **spec.get("config", {}), "background": "#ffffff"}
    spec["padding"] = 12
    return spec
