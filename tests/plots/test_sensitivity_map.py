"""The heat map: which cells are drawn, how, and that it renders without the network."""

import io
import math
from typing import Any

import pytest
from PIL import Image

from switchq.plots.render import png, svg
from switchq.plots.sensitivity_map import sensitivity_map, split_layer

LINEARS = ("attn.c_attn", "mlp.c_fc")


def rows(
    blocks: int = 2, widths: tuple[int, ...] = (8, 2), scores: tuple[str, ...] = ("mse", "kl")
) -> list[dict[str, Any]]:
    return [
        {"layer": f"transformer.h.{block}.{linear}", "bits": bits, "score": score, "value": 10.0 ** (block - bits)}
        for score in scores
        for bits in widths
        for block in range(blocks)
        for linear in LINEARS
    ]


def panels(chart: Any) -> list[dict[str, Any]]:
    return list(chart.to_dict()["vconcat"])


def test_one_row_of_panels_a_score_with_one_panel_a_width() -> None:
    found = panels(sensitivity_map(rows(), "title"))
    assert len(found) == 2
    for panel in found:
        assert panel["facet"]["column"]["sort"] == ["8 bits", "2 bits"]
        cells = panel["data"]["values"]
        assert {(one["width"], one["block"], one["linear"]) for one in cells} == {
            (width, block, linear) for width in ("8 bits", "2 bits") for block in "01" for linear in LINEARS
        }
        colour = panel["spec"]["layer"][0]["encoding"]["color"]
        assert colour["scale"]["type"] == "log"
        assert colour["scale"]["domain"] == [10.0**-8, 10.0**-1]


def test_what_has_no_logarithm() -> None:
    some = rows()
    for row, value in zip(some, (0.0, math.inf, math.nan, None)):
        row["value"] = value
    cells = panels(sensitivity_map(some))[0]["data"]["values"]
    assert [(one["value"], one["broken"]) for one in cells[:5]] == [
        (None, False), (None, True), (None, True), (None, True), (0.01, False),
    ]  # fmt: skip
    black = svg(sensitivity_map(some)).count('fill="black"') - svg(sensitivity_map(rows())).count('fill="black"')
    assert black == 3


@pytest.mark.parametrize("values", [[0.0], [2.0], [math.inf]], ids=["all zero", "all alike", "all broken"])
def test_a_scale_of_one_value_still_renders(values: list[float]) -> None:
    some = [{**row, "value": values[0]} for row in rows()]
    assert svg(sensitivity_map(some)).startswith("<svg")


def test_deep_models_stay_readable() -> None:
    chart = sensitivity_map(rows(blocks=30, widths=(8, 4, 2), scores=("kl",)))
    axis = panels(chart)[0]["spec"]["layer"][0]["encoding"]["x"]["axis"]
    assert axis["values"] == [str(block) for block in range(0, 30, 2)]
    image = Image.open(io.BytesIO(png(chart, scale=1.0)))
    assert 900 < image.width < 1600
    assert len(image.convert("RGB").getcolors(10**6)) > 30


def test_a_layer_outside_of_the_blocks_has_a_column() -> None:
    more = [*rows(), {"layer": "lm_head", "bits": 8, "score": "kl", "value": 1.0}]
    encoding = panels(sensitivity_map(more))[1]["spec"]["layer"][0]["encoding"]
    assert encoding["x"]["sort"] == ["0", "1", "other"]
    assert encoding["y"]["sort"] == [*LINEARS, "lm_head"]
    assert split_layer("lm_head") == ("other", "lm_head")
