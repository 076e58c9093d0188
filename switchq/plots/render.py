"""A chart as SVG or PNG, without a browser and without the network."""

import altair as alt
import vl_convert


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG text."""
    return vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[])


def png(chart: alt.TopLevelMixin, scale: float = 2.0) -> bytes:
    """The chart as PNG, with `scale` pixels to a unit of length."""
    return vl_convert.vegalite_to_png(chart.to_dict(), scale=scale, allowed_base_urls=[])
