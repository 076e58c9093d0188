"""The extrapolation of `bench_scale.py`, and one of its rows."""

import json
from pathlib import Path

import bench_scale
import pytest


def test_an_extrapolation_continues_straight_lines() -> None:
    rows = [
        {"stage": "sizes", "weights": size, "tokens_per_s": 1 / (1e-6 + 3e-15 * size), "peak_mb": 500 + 4e-6 * size}
        for size in (1e8, 4e8, 2e9)
    ]
    other = {"stage": "options", "weights": 1e9, "tokens_per_s": 1.0, "peak_mb": 1.0}
    found = bench_scale.plan([*rows, other], 7e9)
    assert found["seconds_per_token"] == pytest.approx(1e-6 + 2.1e-5)
    assert found["peak_mb"] == pytest.approx(28_500)
    with pytest.raises(ValueError, match="two sizes"):
        bench_scale.plan(rows[:1])


def test_a_row_is_measured_and_written(tmp_path: Path) -> None:
    numbers = ["--batch", "2", "--tokens", "8", "--steps", "2", "--warm", "1"]
    options = ["--device", "cpu", "--stage", "devices", "--names", "1 device", "--shapes", "toy", *numbers]
    rows = bench_scale.main([*options, "--output", str(tmp_path / "rows.jsonl")])
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    assert rows[0]["tokens_per_s"] == pytest.approx(16 / rows[0]["step_s"])
