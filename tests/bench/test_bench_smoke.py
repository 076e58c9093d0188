"""The benchmarks run, at toy size, and write what they promise; the figures themselves are not judged here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_artifact
import bench_autoscheme
import bench_ptq_memory
import bench_search
import bench_seed_scheme
import bench_sensitivity
import bench_step
import bench_switch
import pytest
from subjects import TOKENIZER

from switchq.commands.subject import load_subject
from switchq.nn import switch_layers
from switchq.posttraining.sensitivity import Sensitivity


@pytest.fixture(autouse=True)
def _timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of kernels are kept for the test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


TOY = ["--device", "cpu", "--shapes", "toy", "--rounds", "1"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("main", "options", "rows"),
    [
        pytest.param(bench_step.main, ["--batch", "1", "--tokens", "8", "--rungs", "8", "2"], 8, id="step"),
        pytest.param(bench_switch.main, [], 1, id="switch"),
        pytest.param(bench_artifact.main, ["--tokens", "2", "--prompt", "3"], 8, id="artifact"),
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


@pytest.mark.filterwarnings("ignore")
def test_search_writes_its_figures(tmp_path: Path) -> None:
    subject = load_subject(None, str(TOKENIZER))
    layers = switch_layers(subject.model)
    ranks = tuple(float(number) for number in range(len(layers)))
    names, sizes = zip(*((one.name, one.linear.weight.numel()) for one in layers))
    Sensitivity(names, sizes, (2,), {"mse": {2: ranks}}).write(tmp_path / "sensitivity.json")
    options = ["--model", TOKENIZER, "--sensitivity", tmp_path / "sensitivity.json", "--questions", "6"]
    data = ["--data", bench_seed_scheme.READING, "--metric", "KL", "--output", tmp_path / "figures.json"]
    share = bench_search.main(["--device", "cpu", *map(str, [*options, *data])])
    content = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["greedy, plain", "greedy, fast"]
    assert content["question_evaluations"]["greedy, plain"] == 49 * 6
    assert 0 < share < 1


@pytest.mark.filterwarnings("ignore")
def test_allocations_are_scored_without_the_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    output = tmp_path / "figures.json"
    options = ["--model", TOKENIZER, "--calibration", text, "--text", text, "--averages", "3", "5", "--seeds", "2"]
    sizes = ["--calibration-windows", "2", "--calibration-window", "32", "--windows", "2", "--window", "32"]
    bench_autoscheme.main(["--device", "cpu", *map(str, [*options, *sizes]), "--output", str(output)])
    content = json.loads(output.read_text())
    assert [row["target"] for row in content["rows"]] == [None] + [3] * 6 + [5] * 6
    chosen = [row for row in content["rows"] if row["name"].startswith(("ilp", "random"))]
    assert all(row["target"] - 0.2 < row["average_bits"] <= row["target"] + 1e-6 for row in chosen)
    assert all(row["perplexity"]["text"] > 1 for row in content["rows"])
    assert not any(row["name"] == "AutoScheme" for row in content["rows"])
    assert "left out" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_memory_of_quantisation_at_one_depth(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--shapes", "toy", "--samples", "4", "--length", "32", "--depth", "2"]
    bench_ptq_memory.main(["--device", "cpu", *sizes])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["weights_mb"] == pytest.approx((1024 * 64 + 1024 * 64 + 2 * 49984 + 128) * 4 / 1e6)
    assert found["mb"] >= 0
