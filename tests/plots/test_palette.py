"""Colours keep their distance from the page and from each other, in both themes."""

import pytest

from switchq.plots.palette import DARK, INK, MUTED, ON_HEAT, STOPS, config, width_colour, width_scale

GROUND = {"light": "#ffffff", "dark": "#181c22"}


def luminance(colour: str) -> float:
    """Relative luminance after WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("quarters", range(8, 65))
def test_marks_stand_out_from_the_page(quarters: int) -> None:
    light = width_colour(quarters / 4)
    assert contrast(light, GROUND["light"]) >= 3
    assert contrast(DARK[light], GROUND["dark"]) >= 3


@pytest.mark.parametrize("colour", [INK, MUTED])
def test_text_is_readable(colour: str) -> None:
    assert contrast(colour, GROUND["light"]) >= 4.5
    assert contrast(DARK[colour], GROUND["dark"]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axis_labels_and_figures_on_the_heat_map_are_readable(theme: str) -> None:
    settings = config(theme)
    for part, key in (
        ("axis", "labelColor"),
        ("axis", "titleColor"),
        ("legend", "labelColor"),
        ("legend", "titleColor"),
    ):
        assert contrast(settings[part][key], GROUND[theme]) >= 4.5
    text = ON_HEAT if theme == "light" else DARK[ON_HEAT]
    ramp = settings["range"]["heatmap"]
    assert contrast(text, ramp[-2]) >= 4.5
    assert contrast(text, ramp[-1]) >= 4.5


def test_a_scale_and_a_width_agree() -> None:
    scale = width_scale([8, 4, 16]).to_dict()
    assert scale["range"] == [width_colour(stop) for stop in STOPS]
    assert width_scale([8, 4]).to_dict()["domain"] == [2, 3, 4, 6, 8]
    assert set(scale["range"]) <= set(DARK)
