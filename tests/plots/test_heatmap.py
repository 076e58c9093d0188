"""The heat maps of several scores in one picture."""

import io
import math
from typing import Any

import pytest
from PIL import Image

from switchq.plots.heatmap import sensitivity_map
from switchq.plots.render import png, svg

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


def maps(chart: Any) -> list[dict[str, Any]]:
    return list(chart.to_dict()["vconcat"])


def test_one_map_a_score_with_every_layer_and_width() -> None:
    found = maps(sensitivity_map(rows(), "title"))
    assert [one["encoding"]["color"]["legend"]["title"] for one in found] == [
        "MSE of the output", "KL of the logits (nats)",
    ]  # fmt: skip
    for one in found:
        assert {(cell["bits"], cell["layer"], cell["score"]) for cell in one["data"]["values"]} == {
            (row["bits"], row["layer"], row["value"]) for row in rows()
        }
        assert one["encoding"]["color"]["scale"]["type"] == "log"


def test_what_is_not_finite_has_no_colour() -> None:
    some = rows()
    for row, value in zip(some, (0.0, math.inf, math.nan, None)):
        row["value"] = value
    cells = maps(sensitivity_map(some))[0]["data"]["values"]
    assert [cell["score"] for cell in cells[:5]] == [0.0, None, None, None, 0.01]


@pytest.mark.parametrize("value", [0.0, 2.0, math.inf], ids=["all zero", "all alike", "all broken"])
def test_a_scale_of_one_value_still_renders(value: float) -> None:
    assert svg(sensitivity_map([{**row, "value": value} for row in rows()])).startswith("<svg")


def test_deep_models_fit_a_picture() -> None:
    chart = sensitivity_map(rows(blocks=30, widths=(8, 4, 2), scores=("kl",)))
    image = Image.open(io.BytesIO(png(chart, scale=1.0)))
    assert 720 < image.width < 1200
    assert len(image.convert("RGB").getcolors(10**6)) > 30
