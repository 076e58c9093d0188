"""Every chart becomes SVG and PNG with one mark for each row, and its data survive the journey."""

import re
import struct
from collections.abc import Callable
from typing import Any

import pytest

from switchq.plots.curves import curve_chart, smooth, thin
from switchq.plots.heatmap import correlation_map, heat_map
from switchq.plots.layers import brief, layout, split_layer
from switchq.plots.leaderboard import leaderboard_chart
from switchq.plots.quality import bits_colour, quality_chart
from switchq.plots.render import WIDTH, png, svg
from switchq.plots.search import path_chart, search_chart
from switchq.plots.strip import bit_strip

NAMES = [f"h.{block}.{linear}" for block in range(3) for linear in ("attn.q", "mlp.up")]
POINTS = [
    {"bitmap": f"b{i}", "kind": "uniform", "average_bits": 2.0 + i, "weight_mb": 10.0 + i, "value": 50.0 + i,
     "file": "f", "front": True, "before": 40.0, "low": 45.0, "high": 60.0, "label": str(i)}
    for i in range(4)
]  # fmt: skip
TRIALS = [
    {"step": i, "method": "greedy", "shown": "x", "average_bits": 8 - i, "weight_mb": 9.0 - i, "value": 90.0 - i,
     "verdict": ("accepted", "rejected", "tried")[i % 3], "front": i < 2, "path": True, "questions": 64}
    for i in range(6)
]  # fmt: skip
CELLS = [{"layer": name, "bits": bits, "score": 0.1 * bits} for bits in (8, 2) for name in NAMES]
CHARTS: dict[str, tuple[Callable[[], Any], str, int]] = {
    "quality": (lambda: quality_chart(POINTS, "F1 (%)"), "mark-symbol", 8),
    "perplexity": (lambda: quality_chart(POINTS, "Perplexity", higher_is_better=False), "mark-symbol", 8),
    "search": (lambda: search_chart(TRIALS, "F1 (%)"), "mark-symbol", 6),
    "divergence": (lambda: search_chart(TRIALS, "KL", higher_is_better=False), "mark-symbol", 6),
    "path": (lambda: path_chart([row for row in TRIALS if row["verdict"] != "tried"], "F1 (%)"), "mark-symbol", 4),
    "strip": (lambda: bit_strip([8, 4, 8, 4, 2, 2], NAMES), "mark-rect", 6),
    "strip without names": (lambda: bit_strip([8, 4], ["layer 0", "layer 1"]), "mark-rect", 2),
    "heat map": (lambda: heat_map(CELLS), "mark-rect", 12),
    "heat map of nothing finite": (lambda: heat_map([{"layer": "lm_head", "bits": 4, "score": None}]), "mark-rect", 0),
    "correlations": (lambda: correlation_map({"a": {"b": 0.5}, "b": {"a": 0.5}}), "mark-rect", 4),
    "short curves": (lambda: curve_chart({"8": [(0, 1.0), (9, 2.0)]}, {"8": 8}, "F1"), "mark-symbol", 2),
    "long curves": (lambda: curve_chart({"8": [(i, 1.0 + i) for i in range(40)]}, {"8": 8}, "CE"), "mark-line", 2),
}


def marks(drawn: str, kind: str) -> int:
    """Marks of a kind in the plot itself; those of legends and axes are not counted."""
    groups = re.findall(rf'<g class="{kind} role-mark[^"]*"[^>]*(?<!/)>(.*?)</g>', drawn, re.DOTALL)
    return sum(group.count("<path") for group in groups)


@pytest.mark.parametrize("name", CHARTS)
def test_one_mark_for_each_row(name: str) -> None:
    make, kind, count = CHARTS[name]
    chart = make()
    assert chart.to_dict()["width"] == "container"
    assert marks(svg(chart), kind) == count


@pytest.mark.parametrize(
    ("low", "high", "ticks", "form"),
    [
        (1e-11, 2e-7, [1e-11, 1e-9, 1e-7], "~e"),
        (6e-9, 1.4e-4, [1e-8, 1e-6, 1e-4], "~e"),
        (5e-4, 0.3, [1e-3, 1e-2, 1e-1], "~g"),
    ],
)
def test_a_heat_map_over_decades_has_even_ticks(low: float, high: float, ticks: list[float], form: str) -> None:
    rows = [{"layer": NAMES[0], "bits": bits, "score": score} for bits, score in ((8, low), (2, high))]
    legend = heat_map(rows).to_dict()["encoding"]["color"]["legend"]
    assert (legend["values"], legend["format"]) == (pytest.approx(ticks), form)


def test_dashes_of_lines_do_not_tear_the_symbols_of_methods() -> None:
    rows = [
        {"method": name, "effective_bits": bits + 0.5, "average_bits": bits, "value": 10.0 / bits}
        for name in ("awq", "gptq")
        for bits in (2, 4)
    ]
    drawn = svg(leaderboard_chart(rows, "perplexity", higher_is_better=False, full=2.0))
    symbols = re.findall(r'<g class="mark-symbol role-legend-symbol".*?<path ([^>]*)>', drawn, re.DOTALL)
    dashed = [one for one in symbols if "stroke-dasharray" in one]
    assert len(symbols) == 4
    assert dashed
    assert all('stroke-width="0"' in one for one in dashed)


def test_files_are_told_apart_by_lines_through_their_uniform_and_striped_bitmaps() -> None:
    rows = [{**row, "file": file, "front": False, "before": None} for file in ("a", "b") for row in POINTS]
    mixed = {**rows[0], "kind": "mixed"}
    assert marks(svg(quality_chart([*rows, mixed], "F1 (%)")), "mark-line") == 2
    assert marks(svg(quality_chart(rows[:4], "F1 (%)")), "mark-line") == 0
    (line,) = [
        layer for layer in quality_chart([*rows, mixed], "F1 (%)").to_dict()["layer"] if layer["mark"]["type"] == "line"
    ]
    assert [row["file"] for row in line["data"]["values"]] == ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize(
    ("averages", "shown"),
    [([3.0, 2.0, 4.0, 3.0], [2.0, 3.0, 4.0]), ([2.0, 2.5, 4.0], [2, 4, 8]), ([2.0, 6.3, 16.0], [2, 4, 8, 16])],
)
def test_the_key_of_colours_names_the_widths_where_they_are_few(averages: list[float], shown: list[float]) -> None:
    colour = bits_colour([{"average_bits": average} for average in averages])
    assert colour.to_dict()["legend"]["values"] == shown


def score_axis(values: list[float]) -> tuple[dict[str, Any], list[float]]:
    """Scale and ticks of the scores of a search by perplexity or divergence."""
    rows = [{**row, "value": value} for row, value in zip(TRIALS, values, strict=True)]
    charts = search_chart(rows, "Score", higher_is_better=False), path_chart(rows, "Score", higher_is_better=False)
    found = [layer["encoding"]["y"] for chart in charts for layer in chart.to_dict()["layer"]]
    assert all(one == found[0] for one in found)
    return found[0]["scale"], found[0]["axis"]["values"]


def test_one_bad_bitmap_does_not_press_the_others_of_a_search_together() -> None:
    scale, ticks = score_axis([1.1, 1.2, 1.5, 2.0, 4.0, 816.0])
    assert (scale["type"], scale["reverse"]) == ("log", True)
    assert {1, 10, 100} < set(ticks)


def test_a_divergence_of_zero_has_a_place_on_a_logarithmic_axis() -> None:
    scale, ticks = score_axis([0.0, 2e-5, 1e-4, 0.003, 0.7, 6.7])
    assert (scale["type"], scale["reverse"], scale["constant"]) == ("symlog", True, 2e-5)
    assert ticks == pytest.approx([0, 1e-4, 1e-3, 0.01, 0.1, 1])
    scale, _ = score_axis([0.0, 1e-30, 1e-4, 0.003, 0.7, 6.0])
    assert scale["constant"] == 6e-6
    rows = [{**row, "value": 0.0} for row in TRIALS]
    assert marks(svg(search_chart(rows, "KL", higher_is_better=False)), "mark-symbol") == 6


@pytest.mark.parametrize("size", [0.78, 163.4])
def test_the_numbers_below_a_single_size_are_true(size: float) -> None:
    drawn = svg(quality_chart([{**POINTS[0], "weight_mb": size}], "F1 (%)"))
    across = re.search(r'aria-label="X-axis[^"]*with values from ([\d.]+) to ([\d.]+)"', drawn)
    assert across is not None
    assert [float(end) / size for end in across.groups()] == pytest.approx([0.9, 1.1], abs=0.02)


def test_png_is_as_large_as_asked() -> None:
    image = png(bit_strip([8, 4, 8, 4, 2, 2], NAMES))
    assert image.startswith(b"\x89PNG")
    width, _ = struct.unpack(">II", image[16:24])
    assert WIDTH < width / 2 < WIDTH + 250


def test_texts_cannot_leave_the_svg() -> None:
    evil = "</text><script>1</script>"
    drawn = svg(bit_strip([8, 4, 8, 4], [f"h.{i}.{evil}{j}" for i in range(2) for j in range(2)]))
    assert "<script" not in drawn
    assert "&lt;script" in drawn


def test_layers_have_a_block_and_a_linear() -> None:
    assert split_layer("model.layers.12.mlp.up_proj") == (12, "mlp.up_proj")
    assert split_layer("lm_head") == (None, "lm_head")
    assert layout(["h.1.a.b", "head"]) == [("1", "a.b"), ("other", "head")]
    assert brief(["attn.c_attn", "attn.c_proj", "mlp.c_proj"]) == {
        "attn.c_attn": "c_attn",
        "attn.c_proj": "attn.c_proj",
        "mlp.c_proj": "mlp.c_proj",
    }


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value() -> None:
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    values = smooth([1.0, 0.0, 0.0], weight=0.5)
    assert values == pytest.approx([1.0, 1 / 3, 1 / 7])


def test_thinning_keeps_both_ends() -> None:
    curve = [(i, float(i)) for i in range(5000)]
    kept = thin(curve, 600)
    assert (len(kept), kept[0], kept[-1]) == (600, curve[0], curve[-1])
    assert thin(curve[:10], 600) == curve[:10]
