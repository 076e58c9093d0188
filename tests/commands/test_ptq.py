"""`switchq ptq`, `verify` and `compare`: what they print, what they write, and what they refuse."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from workshop import Workshop

from switchq.cli import main
from switchq.evaluation import evaluate, sha256, text_perplexity
from switchq.evaluation.tasks import Perplexity
from switchq.files import signed
from switchq.models import load_tokenizer
from switchq.training.checkpoint import load_checkpoint

from .conftest import Outcome, Run

Switchq = Callable[..., Outcome]

METHODS = ["rtn", "rtn-mse"]


@dataclass(frozen=True)
class Bench:
    """A configuration, the folder of its finished sweep, and its two saved models."""

    config: Path
    output: Path
    saved: Path

    def content(self) -> dict[str, Any]:
        found = json.loads((self.output / "sweep.json").read_text())
        assert isinstance(found, dict)
        return found

    def run(self, name: str) -> Path:
        (found,) = self.output.glob(f"runs/{name}-[0-9a-f]*.json")
        return found


def write_config(workshop: Workshop, folder: Path, **changes: Any) -> Path:
    settings = {
        "model": str(workshop.base),
        "methods": METHODS,
        "bits": [4, 2],
        "group_size": 16,
        "calibration": [str(workshop.train)],
        "samples": 4,
        "length": 32,
        "tasks": [
            {"class_path": "Perplexity", "init_args": {"name": "houses", "source": str(workshop.dev), "window": 48}},
            {
                "class_path": "Reading",
                "init_args": {"name": "questions", "source": str(workshop.dev), "max_new_tokens": 3},
            },
        ],
        **changes,
    }
    path = folder / "ptq.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def bench(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("ptq")
    found = Bench(write_config(workshop, folder), folder / "out", folder / "saved")
    arguments = ["ptq", "--config", found.config, "--output", found.output, "--save", found.saved, "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    return found


def test_one_record_per_method_and_width(bench: Bench, workshop: Workshop) -> None:
    content = bench.content()
    runs = content["runs"]
    assert [(run["name"], run["bits"]) for run in runs] == [
        ("full precision", 16), ("rtn", 4), ("rtn-mse", 4), ("rtn", 2), ("rtn-mse", 2),
    ]  # fmt: skip
    assert content["setting"]["group_size"] == 16
    assert "windows of 48 tokens every 48" in content["tasks"]["houses"]["protocol"]
    for run in runs[1:]:
        assert run["effective_bits"] == run["bits"] + (16 + run["bits"]) / 16
        assert run["setting"]["group_size"] == 16
        assert run["run"]["base_hash"]
        assert run["quantised_seconds"] > 0
    assert runs[0]["size_mb"] == runs[1]["size_before_mb"] > runs[1]["size_mb"] > runs[3]["size_mb"]


def test_the_saved_model_is_a_plain_one_that_scores_the_same(bench: Bench, workshop: Workshop) -> None:
    tokenizer = load_tokenizer(str(bench.saved / "rtn-2"))
    model = AutoModelForCausalLM.from_pretrained(bench.saved / "rtn-2").eval()
    windows = Perplexity("houses", str(workshop.dev), window=48).examples(tokenizer, 96)
    record = json.loads(bench.run("rtn-2").read_text())
    assert text_perplexity(model, windows) == pytest.approx(record["scores"]["houses"]["perplexity"], rel=1e-6)
    weight_IO = model.transformer.h[0].attn.c_attn.weight
    groups = weight_IO.T.reshape(-1, 16)
    assert max(len(group.unique()) for group in groups) <= 4


def test_the_table_shows_each_width_with_its_best(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    config = write_config(workshop, tmp_path)
    done = switchq("ptq", "--config", config, "--bits", 3, "--methods", "rtn", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if "rtn" in line or "full precision" in line]
    assert [row[:3] for row in rows[:2]] == [["16", "full", "precision"], ["3", "rtn", "4.19"]]
    assert "houses: windows of 48 tokens" in done.out
    assert "groups of 16, with zero points" in done.out
    names = sorted(file.name for file in (tmp_path / "out/runs").glob("*.json"))
    assert [name.rsplit("-", 1)[0] for name in names] == ["full-precision-16", "rtn-3"]


def test_a_sweep_may_be_widened_and_repeats_nothing(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    config, output = write_config(workshop, tmp_path), tmp_path / "out"
    narrow = ("ptq", "--config", config, "--methods", "rtn", "--output", output)
    assert switchq(*narrow, "--bits", 4).code == 0
    kept = {file: file.stat().st_mtime_ns for file in (output / "runs").iterdir()}
    done = switchq(*narrow, "--bits", 4)  # as after a kill between the last run and the table
    assert done.code == 0, done.err
    assert "2 of 2 runs are there already: there is nothing left to do" in done.err
    assert "full precision" in done.out
    assert {file: file.stat().st_mtime_ns for file in (output / "runs").iterdir()} == kept
    done = switchq(*narrow, "--bits", 4, "--bits", 3)
    assert done.code == 0
    assert "2 of 3 runs are there already" in done.err
    assert len(list((output / "runs").glob("*.json"))) == 3
    assert switchq(*narrow, "--bits", 2, "--overwrite").code == 0
    assert len(list((output / "runs").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--group_size", 32], "group_size 16 and not 32"),
        (["--symmetric", "true", "--samples", 3], "symmetric false and not true, samples 4 and not 3"),
        (["--skip", "mlp.c_fc"], 'skip [] and not ["mlp.c_fc"]'),
        (["--length", 16, "--one_shot", "true"], "length 32 and not 16, one_shot false and not true"),
        (["--documents", 99], "documents null and not 99"),
        (["--define", '{"fed": {"rounder": {"class_path": "rounders.gptq.Gptq", "init_args": {"damp": 0.1}}}}'],
         "fed at 4 bits of another definition"),
        (["--batch_size", 3], "fed at 4 bits of another definition, checkpoint, batch size"),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)  # fmt: skip
def test_a_sweep_is_not_widened_by_another_setting(
    change: list[object], says: str, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    """Tables would average both as if they were seeds."""
    define = {"fed": {"rounder": "rounders.gptq.Gptq"}}
    config, output = write_config(workshop, tmp_path, define=define, methods=["fed"], bits=[4]), tmp_path / "out"
    command = ("ptq", "--config", config, "--output", output, "--limit", 4)
    assert switchq(*command).code == 0
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    done = switchq(*command, "--seeds", 1, "--seeds", 0, *change)
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before
    assert switchq(*command, "--seeds", 1, "--seeds", 0, "--methods", "rtn", "--methods", "fed").code == 0
    assert switchq(*command, "--overwrite", *change).code == 0
    (run,) = json.loads((output / "sweep.json").read_text())["runs"][1:]
    assert run["seed"] == 0


def test_calibration_sets_that_are_called_alike(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    """Each has a folder of its own, and the same command finds both there."""
    config, texts = write_config(workshop, tmp_path), []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        texts.append(tmp_path / folder / "text.txt")
        texts[-1].write_text(f"House {folder} has a red door. " * 200)
    data = [word for text in texts for word in ("--calibration", text)]
    places = ("--output", tmp_path / "out", "--save", tmp_path / "saved")
    command = ("ptq", "--config", config, "--methods", "gptq", "--bits", 4, *data, *places)
    done = switchq(*command)
    assert done.code == 0, done.err
    saved = sorted((tmp_path / "saved").iterdir())
    assert [place.name for place in saved] == ["gptq-4-one-text", "gptq-4-two-text"]
    for place, text in zip(saved, texts, strict=True):
        assert str(text) in (place / "switchq.json").read_text()
    done = switchq(*command)
    assert done.code == 0, done.err
    assert "3 of 3 runs are there already: there is nothing left to do" in done.err


def test_a_method_of_ones_own_in_the_configuration(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    define = {"mine": {"rounder": "rounders.nearest.Nearest", "grid": {"class_path": "Symmetric"}}}
    config = write_config(workshop, tmp_path, define=define, methods=["mine"], bits=[4])
    assert switchq("ptq", "--config", config, "--output", tmp_path / "out").code == 0
    (run,) = json.loads((tmp_path / "out/sweep.json").read_text())["runs"][1:]
    assert (run["name"], run["effective_bits"]) == ("mine", 5.0)


def test_the_row_switchq_is_the_checkpoint_at_that_width(
    run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    config = write_config(workshop, tmp_path, checkpoint=str(run.checkpoint), methods=["rtn"], bits=[8, 2])
    done = switchq("ptq", "--config", config, "--output", tmp_path / "out", "--device", "cpu")
    assert done.code == 0, done.err
    rows = {(one["name"], one["bits"]): one for one in json.loads((tmp_path / "out/sweep.json").read_text())["runs"]}
    assert list(rows) == [("full precision", 16), ("rtn", 8), ("switchq", 8), ("rtn", 2), ("switchq", 2)]
    module = load_checkpoint(run.checkpoint)
    from switchq.data.scoring_set import ScoringSet

    windows = Perplexity("houses", str(workshop.dev), window=48).examples(module.tokenizer, 96)
    for bits in (8, 2):
        (expected,) = evaluate(
            module.model, module.tokenizer, ScoringSet("t", texts={"houses": windows}), [bits], progress=False
        )
        row = rows["switchq", bits]
        assert row["scores"]["houses"]["perplexity"] == pytest.approx(expected.text_perplexity["houses"], rel=1e-5)
        assert row["size_mb"] == pytest.approx(expected.weight_mb)


@pytest.mark.parametrize("command", ["eval --text {text} --bitmap 16", "ptq --config {config} --bits 8 --output {out}"])
def test_a_saved_model_that_is_scored_as_if_it_were_whole(
    command: str, bench: Bench, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    config, text = write_config(workshop, tmp_path, methods=["rtn"]), tmp_path / "text.txt"
    text.write_text("House 1 is in Rome. It has a red door.\n" * 40)
    line = command.format(config=config, text=text, out=tmp_path / "out").split()
    done = switchq(*line, "--model", bench.saved / "rtn-4")
    assert done.code == 0, done.err
    assert done.err.count(f"warning: the weights in {bench.saved / 'rtn-4'} are rounded already") == 1
    done = switchq(*line, "--model", workshop.base, *(["--overwrite"] if line[0] == "ptq" else []))
    assert (done.code, "warning" in done.err) == (0, False), done.err


def test_verify_scores_again_and_writes(bench: Bench, switchq: Switchq) -> None:
    done = switchq("verify", bench.saved / "rtn-mse-4", "--prompt", "House 1 is in")
    assert done.code == 0, done.err
    assert "The scores are those that were saved" in done.out
    assert "It continues 'House 1 is in'" in done.out
    assert done.out.count(" same") == 3


@pytest.mark.parametrize("options", [["--symmetric", "false"], ["--symmetric", "true"]], ids=lambda one: one[1])
@pytest.mark.parametrize("method", ["gptq", "rtn-mse"])
def test_packed_codes_are_the_weights_that_were_scored(
    method: str, options: list[str], workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    config, saved = write_config(workshop, tmp_path), tmp_path / "saved"
    command = ["ptq", "--config", config, "--methods", method, "--bits", 4, "--output", tmp_path / "out", *options]
    assert switchq(*command, "--save", saved, "--save_format", "gptq").code == 0
    tensors = load_file(saved / "model.safetensors")
    qweight = tensors["transformer.h.0.attn.c_attn.qweight"]
    assert (qweight.dtype, tuple(qweight.shape)) == (torch.int32, (32 * 4 // 32, 96))
    done = switchq("verify", saved)
    assert done.code == 0, done.err
    assert "The scores are those that were saved" in done.out
    again = switchq(*command, "--save", saved, "--save_format", "hf")
    assert (again.code, "is not empty" in again.err) == (2, True)  # it is there, but in another format
    tensors["transformer.h.0.attn.c_attn.scales"] *= 2
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((saved / "switchq.json").read_text())
    content["files"]["model.safetensors"] = sha256(saved / "model.safetensors")
    (saved / "switchq.json").write_text(json.dumps(signed(content)))
    assert "are not those that were saved" in switchq("verify", saved).err


def test_a_packed_folder_that_lacks_a_tensor(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    config, saved = write_config(workshop, tmp_path), tmp_path / "saved"
    command = ["ptq", "--config", config, "--methods", "rtn", "--bits", 4, "--output", tmp_path / "out"]
    assert switchq(*command, "--save", saved, "--save_format", "gptq").code == 0
    whole = load_file(saved / "model.safetensors")
    for name in ("transformer.h.0.attn.c_attn.qzeros", "transformer.ln_f.bias"):
        save_file({key: value for key, value in whole.items() if key != name}, saved / "model.safetensors")
        content = json.loads((saved / "switchq.json").read_text())
        content["files"]["model.safetensors"] = sha256(saved / "model.safetensors")
        (saved / "switchq.json").write_text(json.dumps(signed(content)))
        done = switchq("verify", saved)
        assert (done.code, name in done.err, done.err.count("\n")) == (2, True, 1), done.err


@pytest.mark.parametrize(
    ("method", "says", "before"),
    [
        ("hqq", "fractional zero points", True),
        ("awq-l2", "a change of its input", False),
        ("praq", "channels at 16 bits", False),
    ],
)
def test_what_a_packed_format_cannot_hold_is_told_of_the_method(
    method: str, says: str, before: bool, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    config = write_config(workshop, tmp_path)
    command = ["ptq", "--config", config, "--methods", method, "--bits", 3, "--output", tmp_path / "out"]
    done = switchq(*command, "--save", tmp_path / "saved", "--save_format", "gptq")
    assert (done.code, says in done.err, "choose --save_format hf" in done.err) == (2, True, True), done.err
    assert not (tmp_path / "saved").exists()
    assert (tmp_path / "out").exists() != before  # what the method's definition tells is told before any work


@pytest.fixture
def copy(bench: Bench, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bench.saved / "rtn-4", tmp_path / "copy"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "switchq.npz"])
def test_verify_finds_one_flipped_bit(name: str, copy: Path, switchq: Switchq) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    done = switchq("verify", copy)
    assert done.code == 2
    assert f"{name} has changed since it was written" in done.err


def test_verify_finds_a_changed_record(copy: Path, switchq: Switchq) -> None:
    path = copy / "switchq.json"
    changed = path.read_text().replace('"houses"', '"horses"')
    path.write_text(changed)
    done = switchq("verify", copy, "--scores", "false")
    assert (done.code, "switchq.json is damaged: its checksum does not match" in done.err) == (2, True), done.err
    path.write_text(changed.replace('"kind"', '"deep": ' + '{"a": ' * 700 + "1" + "}" * 700 + ', "kind"', 1))
    done = switchq("verify", copy, "--scores", "false")
    assert (done.code, "switchq.json is damaged: its checksum does not match" in done.err) == (2, True), done.err
    unsigned = {name: value for name, value in json.loads(changed).items() if name != "sha256"}
    path.write_text(json.dumps(unsigned))  # as the first ones were written
    assert switchq("verify", copy, "--scores", "false").code == 0


def test_a_damaged_model_is_not_scored(copy: Path, workshop: Workshop, switchq: Switchq) -> None:
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    done = switchq("eval", "--model", copy, "--data", workshop.dev, "--bitmap", "16")
    assert (done.code, "model.safetensors has changed since it was written" in done.err) == (2, True), done.err


def test_verify_finds_a_missing_file(copy: Path, switchq: Switchq) -> None:
    (copy / "tokenizer.json").unlink()
    assert "tokenizer.json is not there" in switchq("verify", copy).err


def test_verify_finds_other_weights_even_if_their_file_has_the_right_hash(copy: Path, switchq: Switchq) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["transformer.ln_f.bias"] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((copy / "switchq.json").read_text())
    content["files"]["model.safetensors"] = sha256(copy / "model.safetensors")
    (copy / "switchq.json").write_text(json.dumps(signed(content)))
    done = switchq("verify", copy)
    assert done.code == 2
    assert "are not those that were saved" in done.err


def test_verify_finds_other_scores_and_other_data(
    copy: Path, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    content = json.loads((copy / "switchq.json").read_text())
    content["record"]["scores"]["houses"]["perplexity"] *= 1.01
    (copy / "switchq.json").write_text(json.dumps(signed(content)))
    done = switchq("verify", copy)
    assert (done.code, "houses perplexity" in done.err) == (2, True)
    other = tmp_path / "dev.json"
    other.write_text(workshop.dev.read_text().replace("Rome", "Bern"))
    content["record"]["tasks"]["houses"]["init_args"]["source"] = str(other)
    (copy / "switchq.json").write_text(json.dumps(signed(content)))
    assert "dev.json has changed since task houses was scored" in switchq("verify", copy).err


def test_compare_runs_and_saved_models(bench: Bench, tmp_path: Path, switchq: Switchq) -> None:
    output = tmp_path / "c.json"
    done = switchq("compare", bench.run("rtn-4"), bench.saved / "rtn-2", "--output", output)
    assert done.code == 0, done.err
    rows = json.loads(output.read_text())["differences"]
    assert [(row["task"], row["metric"]) for row in rows] == [
        ("houses", "perplexity"), ("questions", "F1"), ("questions", "EM"),
    ]  # fmt: skip
    scores = [json.loads(bench.run(name).read_text())["scores"]["houses"]["perplexity"] for name in ("rtn-4", "rtn-2")]
    assert rows[0]["difference"] == pytest.approx(scores[1] - scores[0])
    assert rows[0]["low"] <= rows[0]["difference"] <= rows[0]["high"]
    same = switchq("compare", bench.run("rtn-4"), bench.run("rtn-4"), "--output", output, "--overwrite")
    assert same.code == 0
    assert [(row["low"], row["high"]) for row in json.loads(output.read_text())["differences"]] == [(0, 0)] * 3


PTQ = "ptq --config ptq.yaml --output new "

MISTAKES = [
    (PTQ + "--methods gtpq", "no method 'gtpq'; there are rtn"),
    (PTQ + "--bits 9", "no bit-width 9: use 2 to 8\n"),
    (PTQ + "--bits 16", "--bits 16 is full precision"),
    (PTQ + "--group_size 7", "group size 7 does not divide a row of 32 inputs", "c_attn"),
    (PTQ + "--group_size 0", "group size 0"),
    (PTQ + "--skip atn", "'atn' matches no layer"),
    (PTQ + "--methods gptq --samples 100000", "has", "windows of 32 tokens, 100000 are wanted"),
    (PTQ + "--samples 0", "--samples must be at least 1"),
    (PTQ + "--length 97", "--length must be 2 to 96"),
    (PTQ + "--limit 0", "--limit must be at least 1"),
    (PTQ + "--seeds -1", "--seeds must not be negative"),
    (PTQ + "--methods awq --calibration owner/name", "owner/name", "local"),
    (PTQ + "--methods awq --calibration missing.txt", "missing.txt"),
    (PTQ + "--model ./nowhere", "no model folder ./nowhere"),
    (PTQ + "--model nan", "damaged", "not finite"),
    (PTQ + "--device gpu9", "no device 'gpu9'"),
    (PTQ + "--checkpoint none.ckpt", "no checkpoint none.ckpt"),
    (PTQ + "--output file", "cannot write to file: it is a file"),
    (PTQ + "--output file/below", "cannot write to file/below"),
    (PTQ + "--output nan", "holds something else"),
    (PTQ + "--save file --methods rtn --bits 4", "cannot save to file"),
    (PTQ + "--save nan --methods rtn --bits 4", "nan is not empty"),
    (PTQ + "--save nan --overwrite --methods rtn --bits 4", "holds something else than a saved model"),
    (PTQ + "--save_format gptq", "give --save FOLDER"),
    (PTQ + "--save new --save_format gptq --methods apot --bits 4", "the levels of apot are uneven"),
    (PTQ + "--save new --save_format gptq --methods rtn --bits 5", "--save_format gptq has no 5 bits: choose 8, 4, 3"),
    (PTQ + "--save new --save_format compressed-tensors --methods rtn --bits 4", "rtn has zero points", "--symmetric"),
    (PTQ + "--save new --save_format compressed-tensors --symmetric true --methods rtn --bits 4", "nn.Linear only"),
    (PTQ + "--dtype float8", "'float32', 'bfloat16' or 'float16'"),
    ("ptq --config tasks.yaml", "no task 'Perplexty'"),
    ("ptq --config source.yaml", "owner/name", "local"),
    ("ptq --config define.yaml", "method mine", "no rounder"),
    ("ptq --model {base}", "nothing to score"),
    ("ptq --config ptq.yaml --methods fed --output new", "no method 'fed'"),
    ("verify", "switchq verify DIR"),
    ("verify nan", "there is no switchq.json"),
    ("verify {saved} --prompt hi\udcff", "--prompt is not valid UTF-8"),
    ("verify {saved} --max_new_tokens 0", "--max_new_tokens must be at least 1"),
    ("compare {run}", "name two runs"),
    ("compare {run} missing.json", "cannot read missing.json"),
    ("compare {run} ptq.yaml", "ptq.yaml is damaged"),
    ("compare {run} nan", "is no saved model"),
    ("compare {run} search.json", "search.json is a search and", "compare two searches"),
    ("compare search.json missing.json", "cannot read missing.json"),
    ("compare search.json search.json", "cannot read search.journal.jsonl"),
    ("compare {run} {run} --confidence 1", "--confidence must be between 0 and 1"),
    ("compare {run} {run} --output file", "file is there already"),
]


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_one_line_exit_code_2_nothing_written(
    row: tuple[str, ...], bench: Bench, workshop: Workshop, tmp_path: Path, monkeypatch: Any, switchq: Switchq
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_config(workshop, tmp_path)
    settings = yaml.safe_load((tmp_path / "ptq.yaml").read_text())
    perplexity = settings["tasks"][0]["init_args"]
    for name, change in {
        "tasks": {"tasks": [{"class_path": "Perplexty", "init_args": perplexity}]},
        "source": {"tasks": [{"class_path": "Perplexity", "init_args": {**perplexity, "source": "owner/name"}}]},
        "define": {"define": {"mine": {"grid": {}}}},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**settings, **change, "output": "new"}))
    (tmp_path / "file").write_text("")
    (tmp_path / "search.json").write_text('{"kind": "search"}')
    shutil.copytree(workshop.base, tmp_path / "nan")
    weights = load_file(tmp_path / "nan/model.safetensors")
    weights["transformer.h.0.mlp.c_fc.weight"][0, 0] = torch.nan
    save_file(weights, tmp_path / "nan/model.safetensors", metadata={"format": "pt"})
    before = sorted(tmp_path.rglob("*"))
    command, *says = row
    places = {"base": workshop.base, "saved": bench.saved / "rtn-4", "run": bench.run("rtn-4")}
    done = switchq(*command.format(**places).split())
    assert done.code == 2, done
    assert (done.out, done.err.count("\n")) == ("", 1)
    assert done.err.startswith("switchq: error: ")
    assert [part for part in says if part not in done.err] == [], done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["leaderboard", "local", "files"])
def test_the_shipped_configurations_name_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from switchq.commands.ptq_options import PtqOptions

    root = Path(__file__).parents[2]
    seen: dict[str, Any] = {}
    monkeypatch.chdir(root)
    monkeypatch.setattr("switchq.commands.ptq.ptq_command", lambda **arguments: seen.update(arguments))
    assert main(["ptq", "--config", f"configs/ptq/{name}.yaml"]) == 0
    options = PtqOptions(**seen)
    options.check()
    assert options.picked_methods()
    assert options.setting(1024)
    names = [task.name for task in options.read_tasks()]
    assert len(names) == len(set(names)) == len(seen["tasks"])
