"""`switchq search`: its files, its protocol, its resumption, and what it refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workshop import Workshop, write_questions

from switchq.commands import search as command
from switchq.commands.subject import load_subject
from switchq.evaluation.provenance import sha256
from switchq.nn import switch_layers
from switchq.posttraining.search.measure import ModelMeasure
from switchq.posttraining.search.report import figure_text, number
from switchq.posttraining.sensitivity import Sensitivity
from switchq.quant import Symmetric

from .conftest import Outcome, Run

Switchq = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]
TINY, READING = ROOT / "data" / "tiny-gpt2", ROOT / "data" / "reading"


def write_sensitivity(
    path: Path, ckpt: Path | None, model: Path | None, widths: tuple[int, ...] = (8, 4, 2), **changes: Any
) -> Path:
    """The mean squared error of each rounded weight."""
    subject = load_subject(*(None if one is None else str(one) for one in (ckpt, model)))
    layers = switch_layers(subject.model)
    mse = {
        bits: tuple(float((one.linear.round_weight(bits) - one.linear.weight).square().mean()) for one in layers)
        for bits in widths
    }
    run = {
        "base_hash": subject.identity.sha256,
        "checkpoint_sha256": None if ckpt is None else sha256(ckpt),
        "settings": {"grid": Symmetric().to_dict()},
    }
    names, sizes = zip(*((one.name, one.linear.weight.numel()) for one in layers))
    Sensitivity(names, sizes, widths, {"mse": mse}, run={**run, **changes}).write(path)
    return path


@pytest.fixture(scope="module")
def of_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options that search the trained run by perplexity; its answers are too poor for F1."""
    path = write_sensitivity(tmp_path_factory.mktemp("s") / "sensitivity.json", run.checkpoint, None)
    options = ["--generations", 3, "--population", 4, "--device", "cpu"]
    return ["search", "--ckpt", run.checkpoint, "--sensitivity", path, "--metric", "perplexity", *options]


@pytest.fixture(scope="module")
def of_model(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options that search the embedded model by F1."""
    path = write_sensitivity(tmp_path_factory.mktemp("s") / "sensitivity.json", None, TINY)
    data = ["--data", READING / "train.json", "--dev", READING / "dev.json", "--questions", 12, "--dev_limit", 4]
    options = ["--generations", 2, "--population", 4, "--max_new_tokens", 4, "--device", "cpu", "--dev_points", 2]
    return ["search", "--model", TINY, "--sensitivity", path, *data, *options]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_plain_model_by_f1(of_model: list[object], tmp_path: Path, switchq: Switchq) -> None:
    output = tmp_path / "new" / "s.csv"
    done = switchq(*of_model, "--output", output, "--budget", 0.1)
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines()[2:15])) <= 80
    result = json.loads(output.with_suffix(".json").read_text())
    assert result["kind"] == "search"
    table = rows(output)
    assert {row["method"] for row in table} == {"references", "greedy", "ilp", "evolution"}
    for row in table:
        assert float(row["EM"]) <= float(row["F1"]) <= 100
        assert float(row["tokens_per_s"]) > 0
        assert 2 <= float(row["average_bits"]) <= 16
        assert row["accepted"] in ("true", "false")
        assert row["perplexity"] == ""
    # the front dominates or equals all baselines
    for baseline in result["baselines"]:
        assert any(
            point["average_bits"] <= baseline["average_bits"] and point["F1"] >= baseline["F1"]
            for point in result["front"]
        )
    chosen = result["chosen"]
    assert chosen["within_budget"]
    assert chosen["drop"] <= 0.1
    assert chosen["average_bits"] == min(p["average_bits"] for p in result["points"] if p["within_budget"])
    assert result["settings"]["score"] == "mse"
    # dev: the chosen one, all baselines, part of the front, with intervals
    bits = [record["bits"] for record in result["dev"]]
    assert chosen["bits"] in bits
    assert all(baseline["bits"] in bits for baseline in result["baselines"])
    for record in result["dev"]:
        assert record["n_questions"] == 4
        assert record["f1_interval"][0] <= record["F1"] <= record["f1_interval"][1]
        assert record["f1_difference_interval"][0] <= record["f1_difference_interval"][1]
    # and the bitmap goes into eval, which finds the same
    bitmap = output.with_suffix(".bitmap.json")
    asked = f"switchq eval --model {TINY} --data {READING / 'dev.json'} --bitmap @{bitmap}"
    assert done.out.splitlines()[-1] == f"Try next {asked}"
    again = tmp_path / "eval.json"
    options = ["--data", READING / "dev.json", "--limit", 4, "--max_new_tokens", 4, "--output", again]
    assert switchq("eval", "--model", TINY, "--bitmap", f"@{bitmap}", *options).code == 0
    (record,) = json.loads(again.read_text())
    (mine,) = [one for one in result["dev"] if one["bits"] == chosen["bits"]]
    assert (record["bits"], record["F1"], record["weight_mb"]) == (mine["bits"], mine["F1"], mine["weight_mb"])


def test_a_checkpoint_is_searched_on_what_it_held_out(
    of_run: list[object], run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    done = switchq(*of_run, "--output", tmp_path / "s.csv", "--group", "block", "--cost", "weight_mb")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["settings"]["questions"] == 4
    assert result["run"]["data"] == str(workshop.train)
    assert result["run"]["checkpoint"] == str(run.checkpoint)
    assert {record["n_questions"] for record in result["dev"]} == {6}
    for record in result["dev"]:
        low, high = record["perplexity_interval"]
        assert low <= record["perplexity"] <= high
        assert record["perplexity"] == pytest.approx(record["answer_perplexity"], rel=1e-4)
    found = [point for point in result["points"] if point["method"] != "references"]
    assert all(len(set(point["bits"][:4])) == len(set(point["bits"][4:])) == 1 for point in found)


def test_dev_is_read_once_and_last(
    of_model: list[object], tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    measure, read = ModelMeasure.__call__, command.read_squad

    def measured(self: ModelMeasure, *arguments: Any) -> Any:
        events.append("measure")
        return measure(self, *arguments)

    def reading(source: Any, split: str) -> Any:
        events.append(f"read {Path(source).name}")
        return read(source, split)

    monkeypatch.setattr(ModelMeasure, "__call__", measured)
    monkeypatch.setattr(command, "read_squad", reading)
    assert switchq(*of_model, "--output", tmp_path / "s.csv", "--method", "ilp").code == 0
    assert events.count("read dev.json") == 1
    assert events[-1] == "read dev.json"
    assert len(events) > 6


def test_killed_from_outside_and_repeated(of_model: list[object], tmp_path: Path, switchq: Switchq) -> None:
    """A process of its own, killed (SIGKILL) when it has tried a few bitmaps."""
    options = [*of_model, "--method", "greedy", "--method", "ilp"]
    assert switchq(*options, "--output", tmp_path / "whole.csv").code == 0
    output = tmp_path / "s.csv"
    line = [sys.executable, "-m", "switchq.cli", *map(str, options), "--output", str(output)]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here; another number may round otherwise, and is refused
    process = subprocess.Popen(line, env=threads, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and (not output.exists() or output.read_text().count("\n") < 8):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    seen = rows(output)
    assert 7 <= len(seen) < len(rows(tmp_path / "whole.csv"))
    done = switchq(*options, "--output", output)
    assert done.code == 0, done.err
    assert "Going on with an unfinished search: " in done.err
    assert rows(output)[: len(seen)] == seen

    def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        timings = ("tokens_per_s", "latency_ms", "peak_memory_mb", "seconds")
        return [{name: value for name, value in record.items() if name not in timings} for record in records]

    assert timeless(rows(output)) == timeless(rows(tmp_path / "whole.csv"))  # type: ignore[arg-type]
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "s.json"))
    for name in ("points", "front", "baselines", "dev"):
        assert timeless(one[name]) == timeless(other[name])
    assert timeless(list(one["methods"].values())) == timeless(list(other["methods"].values()))
    assert timeless([one["chosen"]]) == timeless([other["chosen"]])
    # finished: refused, and untouched, until --overwrite
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = switchq(*options, "--output", output)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "s.json is there already, as after a finished search" in again.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    other_seed = [*options, "--method", "ilp", "--seed", 1]
    assert switchq(*other_seed, "--output", output, "--overwrite").code == 0
    assert json.loads((tmp_path / "s.json").read_text())["run"]["seed"] == 1


def unfinished(options: list[object], output: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a search before its end."""

    def stops(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_json", stops)
        done = switchq(*options, "--output", output)
    assert done.code == 130
    assert "run the same command to go on" in done.err
    assert done.err.endswith("switchq: stopped\n")
    assert output.exists()
    assert not output.with_suffix(".json").exists()


def test_an_unfinished_search_is_not_mixed_with_another(
    of_run: list[object], tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "s.csv"
    unfinished([*of_run, "--method", "ilp"], output, switchq, monkeypatch)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = switchq(*of_run, "--method", "ilp", "--output", output, "--budget", 0.2)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "other settings" in done.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    output.write_bytes(before["s.csv"][:-20])
    done = switchq(*of_run, "--method", "ilp", "--output", output)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "truncated or edited" in done.err
    assert output.read_bytes() == before["s.csv"][:-20]
    assert switchq(*of_run, "--method", "ilp", "--output", output, "--overwrite").code == 0


def test_a_size_that_leaves_no_bitmap_within_the_budget(of_run: list[object], tmp_path: Path, switchq: Switchq) -> None:
    options = ["--average_bits", 2, "--budget", 0.0, "--method", "ilp", "--output", tmp_path / "s.csv"]
    done = switchq(*of_run, *options)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["chosen"]["bits"] == [2] * 8
    assert result["chosen"]["within_limits"]
    if not result["chosen"]["within_budget"]:
        assert "NOT within" in done.out


BAD = [
    ("--average_bits 1.5", "smallest reachable with widths 8, 4, 2 is 2"),
    ("--weight_mb 0.001", "smallest reachable", "--weight_mb"),
    ("--budget -0.1", "relative drop of perplexity"),
    ("--budget 1 --metric F1", "below 1"),
    ("--metric F1", "at full precision the model's F1 on the search questions is 0"),
    ("--sensitivity {B}/other.json", "those of another model", "switchq sensitivity"),
    ("--sensitivity {B}/other_checkpoint.json", "those of another model"),
    ("--sensitivity {B}/text.json", "not JSON"),
    ("--sensitivity {B}/results.json", "holds no sensitivities"),
    ("--sensitivity missing.json", "missing.json"),
    ("--score kl", "no score 'kl'; they hold mse"),
    ("--sensitivity {B}/wide.json", "say nothing of 2 bits, the narrowest measured are 4", "--bits 2"),
    ("--data {B}/empty.json", "no questions"),
    ("--data missing.json", "missing.json"),
    ("--data {dev}", "is the dev set"),
    ("--dev missing.json", "missing.json is not there"),
    ("--questions 0", "--questions must be at least 1"),
    ("--population 0", "--population must be at least 1"),
    ("--generations -1", "--generations must be at least 0"),
    ("--dev_points 0", "--dev_points must be at least 1"),
    ("--greedy_share 0", "above 0, at most 1"),
    ("--seed -1", "--seed must not be negative"),
    ("--widths [9]", "no bit-width 9"),
    ("--widths [8,8]", "each width once"),
    ("--widths [16]", "each width once"),
    ("--method best", "greedy-plain"),
    ("--metric BLEU", "'perplexity'"),
    ("--output search.json", "ends in .csv"),
    ("--output file/below/s.csv", "cannot write"),
    ("--output taken.csv", "taken.csv exists, but no taken.journal.jsonl"),
    ("--sensitivity done.json --output done.csv", "--output done.csv would be written over done.json", "--sensitivity"),
    ("--sensitivity done.json --output done.csv --overwrite true", "would be written over done.json"),
    ("--output done.csv", "done.json is there already, as after a finished search"),
    ("--device warp", "no device 'warp'"),
]


@pytest.mark.parametrize("row", BAD, ids=lambda row: row[0])
def test_one_line_exit_code_2_nothing_written(
    row: tuple[str, ...],
    of_run: list[object],
    run: Run,
    workshop: Workshop,
    tmp_path: Path,
    switchq: Switchq,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    write_sensitivity(broken / "other.json", run.checkpoint, None, base_hash="0" * 64)
    write_sensitivity(broken / "other_checkpoint.json", run.checkpoint, None, checkpoint_sha256=None)
    write_sensitivity(broken / "wide.json", run.checkpoint, None, widths=(8, 4))
    (broken / "text.json").write_text("Dear diary")
    (broken / "results.json").write_text("[]")
    write_questions(broken / "empty.json", [])
    for name in ("file", "taken.csv", "done.json"):
        (tmp_path / name).write_text("mine")
    options, *says = row
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = switchq(*of_run, *options.format(B=broken, dev=workshop.dev).split())
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.startswith("switchq: error: ")
    assert done.err.count("\n") == 1, done.err
    assert [part for part in says if part not in done.err] == [], done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_it_says_which_widths_stand_in_for_others(
    of_run: list[object], run: Run, tmp_path: Path, switchq: Switchq
) -> None:
    path = write_sensitivity(tmp_path / "sensitivity.json", run.checkpoint, None, widths=(8, 2))
    done = switchq(*of_run, "--sensitivity", path, "--method", "ilp", "--dev", "none", "--output", tmp_path / "s.csv")
    assert done.code == 0, done.err
    assert "warning: the sensitivities were not measured at 4 bits (those of 2 stand in)\n" in done.err
    measured = switchq(*of_run, "--method", "ilp", "--dev", "none", "--output", tmp_path / "t.csv")
    assert (measured.code, "warning" in measured.err) == (0, False), measured.err


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0.0"), (-4e-4, "0.000"), (-0.04, "-0.040"), (0.0, "0.0"), (-1.0, "-1.0"), (1234.56, "1,234.6")],
)
def test_a_figure_that_is_zero_has_no_sign(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("perplexity", 1.0126, "1.01"), ("perplexity", 757.4, "757"), ("KL", 3.3e-5, "3.3e-05"), ("KL", 0.0, "0.0")],
)
def test_small_differences_of_a_metric_can_be_seen(metric: str, value: float, text: str) -> None:
    assert figure_text(value, metric) == text


def test_without_sensitivities_only_evolution(
    of_run: list[object], run: Run, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = ["search", "--ckpt", run.checkpoint, *of_run[5:]]
    done = switchq(*plain)
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "method greedy needs --sensitivity FILE" in done.err
    assert switchq(*plain, "--method", "evolution").code == 0
    assert (tmp_path / "search.csv").exists()


def test_no_held_out_questions(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    done = switchq("search", "--model", workshop.base, "--method", "evolution", "--output", tmp_path / "s.csv")
    assert done.code == 2
    assert "no held-out training questions" in done.err
    assert list(tmp_path.iterdir()) == []


def test_without_a_dev_set_it_says_so(of_model: list[object], tmp_path: Path, switchq: Switchq) -> None:
    here = of_model.index("--dev")
    options = [*of_model[:here], *of_model[here + 2 :]]
    done = switchq(*options, "--output", tmp_path / "s.csv", "--method", "ilp")
    assert done.code == 0, done.err
    assert "No dev set was scored" in done.out
    assert json.loads((tmp_path / "s.json").read_text())["dev"] == []


def test_a_dev_set_that_is_not_wanted_is_not_read(of_run: list[object], tmp_path: Path, switchq: Switchq) -> None:
    """The checkpoint knows of one."""
    done = switchq(*of_run, "--dev", "none", "--output", tmp_path / "s.csv", "--method", "ilp")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "s.json").read_text())
    assert (result["dev"], result["settings"]["dev"]) == ([], None)
