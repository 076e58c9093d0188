"""Transfers on the page: figures with intervals, tables, warnings, and what a damaged file says."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from switchq.errors import UserError
from switchq.posttraining.report import build, read_sources, render
from switchq.posttraining.transfer.layers import LayerError
from switchq.posttraining.transfer.results import Gap, Row

TASKS = {"wiki": {"protocol": "windows of 8 tokens"}, "<b>c4</b>": {"protocol": "windows of 8 tokens"}}

EVIL = "<script>window.hacked=1</script>"


def row(model: str, name: str, bits: int, value: float) -> dict[str, Any]:
    scores = dict.fromkeys(TASKS, value)
    worse = {} if bits == 16 else dict.fromkeys(TASKS, value / 20 - 1)
    return asdict(Row(model, name, bits, 3, bits + 0.3, bits * 2.0, 1.5, 300.0, scores, {}, worse))


def gap(name: str, form: str, bits: int, value: float, low: float | None, high: float | None) -> list[dict[str, Any]]:
    return [asdict(Gap(name, form, bits, task, value, 0.01, low, high, 7.0, "good")) for task in TASKS]


def layer(name: str, form: str, bits: int, block: int, error: float) -> dict[str, Any]:
    role = "attention input"
    return asdict(LayerError(name, form, bits, f"h.{block}.attn.c_attn", block, role, error, 0.01, 0.04))


CONTENT: dict[str, Any] = {
    "kind": "transfer",
    "version": 1,
    "source": {"name": "models/small"},
    "chain": [{"name": "models/large"}],
    "setting": {"group_size": 64},
    "warnings": [f"different architectures {EVIL}"],
    "left_out": {"direct": "needs inputs of equal dimensions"},
    "tasks": TASKS,
    "matching": [
        {"layer": "h.1.attn.c_attn", "source": "h.0.attn.c_attn", "depth": 0.2, "source_depth": 0.0},
        {"layer": "h.1.mlp.c_fc", "source": None, "depth": 0.2, "source_depth": None},
    ],
    "run": {"base": "models/large", "command": "switchq transfer"},
    "rows": [
        row("source", "full precision", 16, 30.0),
        row("target", "full precision", 16, 20.0),
        row("target", "own (scale)", 3, 24.0),
        row("target", "alpha (scale)", 3, 25.0),
    ],
    "gaps": [
        *gap("rtn", "scale", 3, 0.3, 0.2, 0.4),
        *gap("alpha", "scale", 3, 0.05, 0.02, 0.08),
        *gap("random", "scale", 2, 4.0, None, None),
    ],
    "layers": [layer(name, "scale", 3, block, 0.02 * (1 + block)) for name in ("rtn", "alpha") for block in (0, 1)],
}


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "transfer.json").write_text(json.dumps({**CONTENT, **changes}))
    return folder


def test_figures_and_tables(tmp_path: Path) -> None:
    report = build(read_sources([write(tmp_path / "out")]))
    (section,) = report.sections
    assert section.title == "Transfer of quantisation scales"
    assert [figure.title for figure in report.figures] == [
        "small to large: transfer gap on wiki",
        "small to large: transfer gap on <b>c4</b>",
        "Which layers transfer best: alpha (scale)",
    ]
    assert [one.title for one in report.tables] == [
        "small to large: transfer gaps",
        "small to large: perplexities",
        "Which components transfer best",
        "small to large: matched layers",
    ]


def test_points_and_bars_of_the_chart(tmp_path: Path) -> None:
    report = build(read_sources([write(tmp_path / "out") / "transfer.json"]))
    _, bars, points = report.figures[0].chart.to_dict()["layer"]
    drawn = {(one["strategy"], one["average_bits"], one["gap"]) for one in points["data"]["values"]}
    assert drawn == {("rtn (scale)", 3, 30.0), ("alpha (scale)", 3, 5.0), ("random (scale)", 2, 400.0)}
    ends = {one["strategy"]: (one["low"], one["high"]) for one in bars["data"]["values"]}
    assert ends["alpha (scale)"] == (2.0, 8.0)
    assert ends["random (scale)"] == (400.0, 400.0), "no interval, no bar"


def test_the_heat_map_is_of_the_best_strategy_and_against_own(tmp_path: Path) -> None:
    report = build(read_sources([write(tmp_path / "out")]))
    cells = report.figures[2].chart.to_dict()["data"]["values"]
    assert {cell["layer"]: cell["score"] for cell in cells} == {"h.0.attn.c_attn": 2.0, "h.1.attn.c_attn": 4.0}
    components = report.tables[2]
    assert components.columns == ("Form", "Strategy", "attention input")
    assert [cells[2].value for cells in components.rows] == [pytest.approx(8**0.5)] * 2


def test_cells_and_warnings(tmp_path: Path) -> None:
    report = build(read_sources([write(tmp_path / "out")]))
    gaps, rows, _, matching = report.tables
    assert [cell.text for cell in gaps.rows[2]] == [
        "alpha", "scale", "3", "wiki", "+5.00", "1.00", "+2.00", "+8.00", "good", "7.0",
    ]  # fmt: skip
    assert "direct is left out: it needs inputs of equal dimensions" in rows.caption
    assert [cell.text for cell in matching.rows[1]][:3] == ["h.1.mlp.c_fc", "0.20", "nothing: rounded plainly"]
    page = render(report)
    assert EVIL not in page
    assert "&lt;script&gt;window.hacked" in page


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: {"version": 2}, "version 2, this program reads 1"),
        (lambda c: {"rows": []}, "holds no rows"),
        (lambda c: {"rows": None}, "rows, gaps or layers are missing"),
        (lambda c: {"chain": {}}, "'chain' is missing or of the wrong type"),
        (lambda c: {"matching": [1]}, "'matching' does not hold objects"),
        (lambda c: {"gaps": [{"name": "alpha"}]}, "gap lacks"),
        (lambda c: {"rows": [{**c["rows"][0], "scores": [1]}]}, "'scores' is not an object"),
        (lambda c: {"layers": [{**c["layers"][0], "block": "first"}]}, "'block' is not a whole number"),
    ],
)
def test_damaged_files(spoil: Callable[[dict[str, Any]], dict[str, Any]], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        read_sources([write(tmp_path / "out", **spoil(CONTENT))])
