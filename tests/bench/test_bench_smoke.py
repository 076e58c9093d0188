"""The benchmarks run, at toy size, and write what they promise; the figures themselves are not judged here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_seed_scheme
import bench_sensitivity
import bench_step
import bench_switch
import pytest
from subjects import TOKENIZER

TOY = ["--device", "cpu", "--shapes", "toy", "--rounds", "1"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("main", "options", "rows"),
    [
        pytest.param(bench_step.main, ["--batch", "1", "--tokens", "8", "--rungs", "8", "2"], 8, id="step"),
        pytest.param(bench_switch.main, [], 1, id="switch"),
        pytest.param(
            bench_seed_scheme.main,
            ["--questions", "20", "--batch", "1", "--tokenizer", str(TOKENIZER), "--data", bench_seed_scheme.READING],
            2,
            id="seed scheme",
        ),
        pytest.param(
            bench_sensitivity.main,
            ["--questions", "3", "--batch", "2", "--tokenizer", str(TOKENIZER), "--data", bench_seed_scheme.READING],
            6,
            id="sensitivity",
        ),
    ],
)
def test_writes_its_figures(main: Callable[[list[str]], Any], options: list[str], rows: int, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    main([*TOY, *map(str, options), "--output", str(output)])
    content = json.loads(output.read_text())
    assert len(content["rows"]) == rows
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in content["rows"])
    assert content["machine"]["torch"]
