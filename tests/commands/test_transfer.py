"""`switchq transfer`: what it prints and writes, that it goes on after a kill, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from switchq.cli import main
from switchq.commands.transfer_options import TransferOptions
from switchq.models import load_model

from .conftest import Outcome

Switchq = Callable[..., Outcome]

SaveTiny = Callable[..., Path]

TEXT = "The red cat sat on the mat. Ann lives in a tall house in Rome; snow is white! "


@dataclass(frozen=True)
class Pair:
    """A configuration with a wider and deeper target, and where its results go."""

    config: Path
    output: Path
    target: Path

    def content(self) -> dict[str, Any]:
        found = json.loads((self.output / "transfer.json").read_text())
        assert isinstance(found, dict)
        return found


def write_config(folder: Path, source: Path | None, target: Path, **changes: Any) -> Path:
    (folder / "text.txt").write_text(TEXT * 12)
    perplexity = {"name": "text", "source": str(folder / "text.txt"), "window": 40, "limit": 4}
    settings = {
        "source": None if source is None else str(source),
        "target": str(target),
        "bits": [4, 3],
        "group_size": 16,
        "calibration": [str(folder / "text.txt")],
        "samples": 3,
        "length": 32,
        "seeds": [0, 1],
        "tasks": [
            {"class_path": "Perplexity", "init_args": perplexity},
            {"class_path": "Perplexity", "init_args": {**perplexity, "name": "other", "window": 24}},
        ],
        "device": "cpu",
        **changes,
    }
    path = folder / "transfer.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in settings.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def pair(save_tiny: SaveTiny, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("transfer")
    target = save_tiny("gpt2", n_embd=48, n_layer=3, seed=1)
    found = Pair(write_config(folder, save_tiny("gpt2"), target), folder / "out", target)
    assert main(["transfer", "--config", str(found.config), "--output", str(found.output)]) == 0
    return found


def test_rows_and_gaps_of_every_strategy_width_and_form(pair: Pair) -> None:
    content = pair.content()
    rows = {(row["model"], row["name"], row["bits"]): row for row in content["rows"]}
    carried = ["adaptive (scale)", "matched (scale)", "alpha (scale)", "permuted (scale)", "random (scale)"]
    carried += ["adaptive (protect)", "matched (protect)", "ratio (protect)", "permuted (protect)", "random (protect)"]
    own = ["own (scale)", "own (protect)"]
    assert set(rows) == {
        ("source", "full precision", 16), ("target", "full precision", 16),
        *(("source", name, bits) for name in own for bits in (4, 3)),
        *(("target", name, bits) for name in ["rtn", *own, *carried] for bits in (4, 3)),
    }  # fmt: skip
    assert content["left_out"].keys() == {"direct"}
    assert "32 against 48" in content["left_out"]["direct"]
    assert {(gap["name"], gap["form"]) for gap in content["gaps"]} == {
        *((name.split(" (")[0], name.split(" (")[1][:-1]) for name in carried), ("rtn", "scale"), ("rtn", "protect"),
    }  # fmt: skip
    for gap in content["gaps"]:
        row, reference = (rows["target", name, gap["bits"]] for name in (title(gap), f"own ({gap['form']})"))
        assert row["seeds"] == (1 if gap["name"] == "rtn" else 2)
        assert gap["low"] <= gap["gap"] <= gap["high"]
        own, moved = (scores(pair, one["name"], one["bits"], gap["task"]) for one in (reference, row))
        expected = [
            other / one - 1 for one, other in zip(own, moved * 2 if gap["name"] == "rtn" else moved, strict=True)
        ]
        assert gap["gap"] == pytest.approx(sum(expected) / 2)
        assert gap["saved_seconds"] == pytest.approx(reference["seconds"] - row["seconds"])
    for key, row in rows.items():
        full = rows[key[0], "full precision", 16]
        for task, worse in row["worse"].items():
            assert worse == pytest.approx(row["scores"][task] / full["scores"][task] - 1)
        assert row["size_mb"] < full["size_mb"] or row is full
    tied_once = sum(parameter.numel() for parameter in load_model(str(pair.target)).parameters())
    assert rows["target", "full precision", 16]["size_mb"] == pytest.approx(2 * tied_once / 1e6)


def scores(pair: Pair, name: str, bits: int, task: str) -> list[float]:
    """Of the target, by seed."""
    runs = json.loads((pair.output / "target/sweep.json").read_text())["runs"]
    found = [
        (run["seed"], run["scores"][task]["perplexity"]) for run in runs if (run["name"], run["bits"]) == (name, bits)
    ]
    return [value for _, value in sorted(found)]


def title(gap: dict[str, Any]) -> str:
    return "rtn" if gap["name"] == "rtn" else f"{gap['name']} ({gap['form']})"


def test_layers_and_matching(pair: Pair) -> None:
    content = pair.content()
    assert len(content["matching"]) == 12
    assert content["unmatched"] == []
    third = next(one for one in content["matching"] if one["layer"] == "transformer.h.1.mlp.c_fc")
    assert third == {
        "layer": "transformer.h.1.mlp.c_fc", "source": "transformer.h.0.mlp.c_fc", "depth": 0.5, "source_depth": 0.0,
    }  # fmt: skip
    runs = json.loads((pair.output / "target/sweep.json").read_text())["runs"]
    for layer in content["layers"]:
        name = title(layer)
        of_seeds = [r["details"]["layer_errors"] for r in runs if (r["name"], r["bits"]) == (name, layer["bits"])]
        assert layer["error"] == pytest.approx(sum(one[layer["layer"]] for one in of_seeds) / len(of_seeds))
    assert len(content["layers"]) == 12 * 12 * 2


@pytest.mark.parametrize("columns", [80, 100])
def test_the_terminal_shows_it_all(columns: int, pair: Pair, monkeypatch: pytest.MonkeyPatch, switchq: Switchq) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = switchq("transfer", "--config", pair.config, "--output", pair.output)
    assert done.code == 0, done.err
    assert "target: 29 of 29 runs are there already" not in done.err
    assert "runs are there already" in done.err
    tables = done.out.split("Unmatched layers")[0].splitlines()[1:]
    assert max(map(len, tables)) <= columns
    assert [line for line in tables if "…" in line] == []
    for words in ("Layers by component and relative depth", "gap %", "verdict", "seconds", "transfers best", "±"):
        assert words in done.out
    assert "Unmatched layers, rounded plainly: none" in done.out
    assert "Left out: direct needs inputs of equal dimensions" in done.out


def without_times(content: Any) -> Any:
    """Without what differs from run to run."""
    volatile = ("seconds", "saved_seconds", "peak_memory_mb", "time", "command", "extraction_seconds", "statistics")
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in volatile}
    return [without_times(one) for one in content] if isinstance(content, list) else content


def test_a_killed_transfer_goes_on_and_ends_like_an_unbroken_one(pair: Pair, tmp_path: Path, switchq: Switchq) -> None:
    output = tmp_path / "out"
    arguments = ["transfer", "--config", str(pair.config), "--output", str(output)]
    code = "import sys, torch; torch.set_num_threads(1); from switchq.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(output.glob("target/runs/*.json"))) < 5 and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in output.glob("*/runs/*.json")}
    assert not (output / "transfer.json").exists()
    done = switchq(*arguments)
    assert done.code == 0, done.err
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    found = json.loads((output / "transfer.json").read_text())
    assert without_times(found) == without_times(pair.content())


def test_statistics_serve_another_target_without_the_source(
    pair: Pair, save_tiny: SaveTiny, tmp_path: Path, switchq: Switchq
) -> None:
    config = write_config(tmp_path, None, save_tiny("gpt2", n_embd=64))
    given = ("--statistics", pair.output / "statistics.safetensors", "--bits", 3, "--seeds", 1)
    done = switchq("transfer", "--config", config, *given, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out/transfer.json").read_text())
    assert {row["model"] for row in content["rows"]} == {"target"}
    assert content["source"]["sha256"] == pair.content()["source"]["sha256"]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["target", "transfer.json"]


def test_direct_between_equal_dimensions_and_a_chain(save_tiny: SaveTiny, tmp_path: Path, switchq: Switchq) -> None:
    config = write_config(tmp_path, save_tiny("gpt2"), save_tiny("gpt2", n_layer=3, seed=2), bits=[3], seeds=[0])
    narrow = ("--strategies", "direct", "--strategies", "adaptive", "--controls", "random", "--limit", 2)
    assert switchq("transfer", "--config", config, *narrow, "--output", tmp_path / "straight").code == 0
    straight = json.loads((tmp_path / "straight/transfer.json").read_text())
    scores = {row["name"]: row["scores"] for row in straight["rows"] if row["model"] == "target"}
    assert scores["direct (scale)"] == scores["adaptive (scale)"] != scores["own (scale)"]
    assert straight["left_out"] == {}
    via = save_tiny("gpt2", n_embd=16, seed=3)
    assert switchq("transfer", "--config", config, *narrow, "--via", via, "--output", tmp_path / "chain").code == 0
    chain = json.loads((tmp_path / "chain/transfer.json").read_text())
    assert [model["inputs"]["attention input"] for model in chain["chain"]] == [16, 32]
    found = {row["name"]: row["scores"] for row in chain["rows"] if row["model"] == "target"}
    assert found["own (scale)"] == scores["own (scale)"]
    assert found["adaptive (scale)"] != scores["adaptive (scale)"], "16 channels in the middle lose some"
    assert chain["left_out"].keys() == {"direct"}


def test_a_strategy_without_the_form_is_left_out_and_said_to_be(
    save_tiny: SaveTiny, tmp_path: Path, switchq: Switchq
) -> None:
    config = write_config(tmp_path, save_tiny("gpt2"), save_tiny("gpt2", seed=1), bits=[3], seeds=[0], limit=1)
    given = ("--forms", "scale", "--strategies", "ratio", "--strategies", "alpha", "--controls", "random")
    done = switchq("transfer", "--config", config, *given, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "switchq: warning: ratio is left out: it has no form scale" in done.err
    assert "Left out: ratio has no form scale" in done.out
    content = json.loads((tmp_path / "out/transfer.json").read_text())
    assert content["left_out"] == {"ratio": "has no form scale"}
    assert {gap["name"] for gap in content["gaps"]} == {"rtn", "alpha", "random"}


def test_another_architecture_is_allowed_with_a_warning(save_tiny: SaveTiny, tmp_path: Path, switchq: Switchq) -> None:
    target = save_tiny("llama")
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["A"], tokenizer["model"]["vocab"]["B"] = (
        tokenizer["model"]["vocab"]["B"],
        tokenizer["model"]["vocab"]["A"],
    )
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = write_config(tmp_path, save_tiny("gpt2"), target, bits=[3], seeds=[0], limit=2)
    done = switchq("transfer", "--config", config, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "is a gpt2 model and" in done.err
    assert "different architectures" in done.err
    assert "different vocabularies: their perplexities are per different tokens" in done.err
    content = json.loads((tmp_path / "out/transfer.json").read_text())
    assert len(content["warnings"]) == 2
    pairs = {(one["layer"], one["source"]) for one in content["matching"]}
    assert ("model.layers.1.self_attn.k_proj", "transformer.h.1.attn.c_attn") in pairs
    assert ("model.layers.0.mlp.down_proj", "transformer.h.0.mlp.c_proj") in pairs


def test_what_the_source_left_out_falls_back_to_plain_rounding(
    save_tiny: SaveTiny, tmp_path: Path, switchq: Switchq
) -> None:
    source, target = save_tiny("gpt2"), save_tiny("gpt2", n_embd=48, seed=1)
    config = write_config(tmp_path, source, target, bits=[3], seeds=[0], skip=["*.attn.*"], limit=2)
    assert switchq("transfer", "--config", config, "--output", tmp_path / "some").code == 0
    all_of_them = write_config(tmp_path, None, target, bits=[3], seeds=[0], limit=2)
    given = ("--statistics", tmp_path / "some/statistics.safetensors", "--strategies", "adaptive")
    done = switchq("transfer", "--config", all_of_them, *given, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out/transfer.json").read_text())
    unmatched = [f"transformer.h.{block}.attn.{name}" for block in (0, 1) for name in ("c_attn", "c_proj")]
    assert content["unmatched"] == unmatched
    assert f"Unmatched layers, rounded plainly: {', '.join(unmatched)}" in done.out
    errors = {(one["name"], one["layer"]): one for one in content["layers"] if one["form"] == "scale"}
    first = errors["adaptive", unmatched[0]]
    assert first["error"] == first["rtn"] != first["own"]


MISTAKES = [
    ("--target ./nowhere", "no model folder ./nowhere"),
    ("--strategies drect", "no strategy 'drect'; there are direct, adaptive, matched, alpha, ratio"),
    ("--controls nothing", "no control 'nothing'; there are permuted, random"),
    ("--forms scales", "--forms", "'scale' or 'protect'"),
    ("--config idle.yaml", "ratio has no form scale"),
    ("--config idle.yaml --controls random", "ratio has no form scale"),
    ("--strategies=[] --controls=[]", "name a strategy"),
    ("--strategies direct", "direct needs inputs of equal dimensions", "32 against 48"),
    ("--bits 16", "--bits 16 is full precision"),
    ("--bits 4 --bits 4", "--bits names something twice"),
    ("--seeds -1", "--seeds must not be negative"),
    ("--group_size 7", "group size 7 does not divide a row of 32 inputs", "c_attn"),
    ("--skip atn", "'atn' matches no layer of any of the models"),
    ("--protect_ratio 0", "share is above 0"),
    ("--calibration missing.txt", "missing.txt"),
    ("--samples 100000", "windows of 32 tokens, 100000 are wanted"),
    ("--tasks=[]", "there are no text sets"),
    ("--config question.yaml", "is no text set"),
    ("--config none.yaml", "there are no text sets"),
    ("--config alone.yaml", "give either --source", "or --statistics"),
    ("--config untargeted.yaml", "give --target"),
    ("--statistics out/statistics.safetensors", "give either --source"),
    ("--config file.yaml --statistics missing.safetensors", "no file of statistics missing.safetensors"),
    ("--config file.yaml --statistics text.txt", "text.txt is damaged or no file of statistics"),
    ("--config file.yaml --statistics half.safetensors", "half.safetensors is damaged"),
    ("--config file.yaml --statistics future.safetensors", "format version 99, this program reads 1"),
    (
        "--config file.yaml --statistics out/statistics.safetensors --seeds 7",
        "no 4 bits seed 7: they have 4 bits",
    ),
    ("--output text.txt", "cannot write to text.txt: it is a file"),
    ("--output .", "holds something else"),
    ("--output out --source {target}", "weights are not those of"),
    ("--output out --target {source}", "a sweep of another model"),
    ("--output out --limit 1", "with other tasks"),
    ("--output out --group_size 8", "extracted with another setting"),
]


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_one_line_exit_code_2_nothing_changed(
    row: tuple[str, ...], pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switchq: Switchq
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "out").symlink_to(pair.output)
    settings = yaml.safe_load(pair.config.read_text())
    source, target = settings["source"], settings["target"]
    question = {"class_path": "Reading", "init_args": {"name": "q", "source": "q.json"}}
    for name, change in {
        "transfer": {},
        "question": {"tasks": [question]},
        "none": {"tasks": None},
        "alone": {"source": None},
        "file": {"source": None},
        "untargeted": {"target": None},
        "idle": {"strategies": ["ratio"], "controls": [], "forms": ["scale"]},
    }.items():
        kept = {key: value for key, value in {**settings, **change, "output": "new"}.items() if value is not None}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(kept))
    (tmp_path / "text.txt").write_text(TEXT)
    statistics = pair.output / "statistics.safetensors"
    (tmp_path / "half.safetensors").write_bytes(statistics.read_bytes()[:-100])
    with safe_open(statistics, "pt") as file:
        header = json.loads(file.metadata()["switchq"])
    future = {"switchq": json.dumps({**header, "version": 99})}
    save_file(load_file(statistics), tmp_path / "future.safetensors", metadata=future)
    before = {file: file.stat().st_mtime_ns for place in (tmp_path, pair.output) for file in place.rglob("*")}
    arguments, *says = row
    given = arguments.format(source=source, target=target).split()
    config = [] if "--config" in given else ["--config", "transfer.yaml"]
    done = switchq("transfer", *config, *given)
    assert done.code == 2, done
    errors = [line for line in done.err.splitlines() if not line.startswith("switchq: warning: ")]
    assert (done.out, len(errors)) == ("", 1), done.err
    assert errors[0].startswith("switchq: error: ")
    assert [part for part in says if part not in done.err] == [], done.err
    after = {file: file.stat().st_mtime_ns for place in (tmp_path, pair.output) for file in place.rglob("*")}
    ours = {file for file in after if file.name not in (".lock",)}
    assert ours == {file for file in before if file.name not in (".lock",)}


def test_overwrite_begins_anew(save_tiny: SaveTiny, tmp_path: Path, switchq: Switchq) -> None:
    source, target = save_tiny("gpt2"), save_tiny("gpt2", n_embd=48, seed=1)
    config = write_config(tmp_path, source, target, bits=[3], seeds=[0], limit=1, strategies=["alpha"], controls=[])
    arguments = ("transfer", "--config", config, "--output", tmp_path / "out")
    assert switchq(*arguments).code == 0
    assert switchq(*arguments, "--target", source).code == 2
    done = switchq(*arguments, "--source", target, "--target", source, "--overwrite")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out/transfer.json").read_text())
    assert (content["source"]["name"], content["chain"][0]["name"]) == (str(target), str(source))
    assert {row["name"] for row in content["rows"] if row["bits"] == 3} == {
        "own (scale)", "own (protect)", "rtn", "alpha (scale)",
    }  # fmt: skip


ROOT = Path(__file__).parents[2]


CONFIGS = [ROOT / "configs/transfer.yaml", *sorted(ROOT.glob("configs/transfer/*.yaml"))]


@pytest.mark.parametrize("path", [str(file.relative_to(ROOT)) for file in CONFIGS])
def test_the_shipped_configurations_name_what_there_is(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("switchq.commands.transfer.transfer_command", lambda **arguments: seen.update(arguments))
    assert main(["transfer", "--config", path]) == 0
    options = TransferOptions(**seen)
    options.check()
    comparison = options.comparison(1024)
    assert set(comparison.strategies) == {"direct", "adaptive", "matched", "alpha", "ratio", "permuted", "random"}
    assert options.read_tasks()
    if "local" not in path:
        assert (comparison.bits, len(comparison.seeds)) == ((8, 4, 3, 2), 3)
        assert len({task.name for task in options.read_tasks()}) == 3
