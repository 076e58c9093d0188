"""`switchq sensitivity`: table, JSON, TensorBoard, calibration, options."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from workshop import Workshop

from switchq.data.modules import training_split
from switchq.data.prompt import Prompt
from switchq.nn import switch_layers
from switchq.posttraining.calibration import question_batches
from switchq.posttraining.sensitivity import Sensitivity, divergences, fisher_scores
from switchq.training.checkpoint import load_checkpoint

from .conftest import Outcome, Run

Switchq = Callable[..., Outcome]


@pytest.fixture
def measured(run: Run, tmp_path: Path, switchq: Switchq) -> tuple[Outcome, Path]:
    """All scores of the trained run, and the folder that everything was written to."""
    output, logs = tmp_path / "new" / "s.json", tmp_path / "logs" / "sensitivity"
    return switchq("sensitivity", "--ckpt", run.checkpoint, "--output", output, "--logdir", logs), tmp_path


def test_the_file_holds_every_layer_at_every_trained_width(
    measured: tuple[Outcome, Path], run: Run, workshop: Workshop
) -> None:
    done, folder = measured
    assert done.code == 0, done.err
    result = Sensitivity.read(folder / "new" / "s.json")
    assert result.bits == (8, 4, 2)
    assert list(result.scores) == ["mse", "mae", "kl", "fisher"]
    module = load_checkpoint(run.checkpoint)
    assert result.layers == tuple(layer.name for layer in switch_layers(module.model))
    held, _ = training_split({"train": str(workshop.train), "holdout": 4, "seed": 0})
    batches = question_batches(held, Prompt(), module.tokenizer, 96)
    for name, expected_LW in {
        "kl": divergences(module.model, batches, (8, 4, 2)),
        "fisher": fisher_scores(module.model, batches, (8, 4, 2)),
    }.items():
        found_LW = torch.tensor([result.scores[name][bits] for bits in (8, 4, 2)], dtype=torch.float64).T
        torch.testing.assert_close(found_LW, expected_LW, rtol=1e-4, atol=1e-12)


def test_the_record_says_how_to_repeat_the_run(measured: tuple[Outcome, Path], run: Run, workshop: Workshop) -> None:
    _, folder = measured
    content = json.loads((folder / "new" / "s.json").read_text())
    assert content["run"]["checkpoint"] == str(run.checkpoint)
    assert content["run"]["data"] == str(workshop.train)
    assert {len(content["run"][name]) for name in ("base_hash", "checkpoint_sha256", "data_sha256")} == {64}
    assert content["run"]["seed"] == 0
    calibration = content["run"]["settings"]["calibration"]
    assert (calibration["samples"], calibration["limit"], calibration["batch_size"]) == (4, 64, 8)
    assert calibration["tokens"] > calibration["scored_tokens"] >= 8
    assert content["cost"]["mse"]["forwards"] == 1
    assert content["cost"]["kl"]["forwards"] < content["cost"]["kl"]["forwards_naive"] == 25


def test_the_tables_fit_a_terminal_and_say_what_next(measured: tuple[Outcome, Path], run: Run) -> None:
    done, folder = measured
    tables, _, lines = done.out.partition("Sensitivities ")
    assert max(len(line) for line in tables.splitlines()[1:]) <= 80
    assert "Most sensitive layers by kl" in tables
    assert "Rank correlations" in tables
    worst = max(zip(Sensitivity.read(folder / "new" / "s.json").scores["kl"][2], range(8)))[1]
    first = next(line for line in tables.splitlines() if line.strip().startswith("1 "))
    names = [f"{block}.{part}" for block in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert first.split()[5] == names[worst]
    assert f"switchq search --ckpt {run.checkpoint} --sensitivity {folder / 'new' / 's.json'}" in lines
    assert str(folder / "logs" / "sensitivity" / "version_0") in lines
    assert [line for line in done.err.splitlines() if line.strip() and not line.startswith("sensitivity ")] == []


def test_tensorboard_has_the_heat_map_and_the_scores(measured: tuple[Outcome, Path]) -> None:
    _, folder = measured
    events = EventAccumulator(str(folder / "logs" / "sensitivity" / "version_0"))
    events.Reload()
    assert events.Tags()["images"] == ["sensitivity"]
    image = events.Images("sensitivity")[0]
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert image.width > 600
    assert image.height > 600
    scores = Sensitivity.read(folder / "new" / "s.json").scores["fisher"][4]
    assert [one.value for one in events.Scalars("sensitivity fisher/4 bits")] == pytest.approx(scores)


def test_a_plain_model_on_text(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    text = tmp_path / "text.txt"
    text.write_text("House 1 is in Rome. It has a red door.\n" * 40)
    options = ["--text", text, "--window", 32, "--limit", 3, "--bits", 3, "--bits", 5, "--scores", "mse", "--seed", 4]
    grid = ["--grid", "asymmetric", "--group_size", 16, "--scale", "mse"]
    places = ["--output", tmp_path / "s.json", "--logdir", tmp_path / "logs"]
    done = switchq("sensitivity", "--model", workshop.base, *options, *grid, *places)
    assert done.code == 0, done.err
    result = Sensitivity.read(tmp_path / "s.json")
    assert (result.bits, list(result.scores)) == ((5, 3), ["mse"])
    assert "Rank" not in done.out, "one score correlates with nothing"
    assert result.run["settings"]["grid"]["init_args"] == {"group_size": 16, "scale": "mse"}
    assert result.run["settings"]["calibration"]["tokens"] == 3 * 32
    assert result.run["data"] == str(text)
    assert result.run["checkpoint"] is None


def test_an_output_is_replaced_only_when_asked_to(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    output = tmp_path / "s.json"
    output.write_text("mine")
    places = ["--output", output, "--logdir", tmp_path / "logs"]
    command = ["sensitivity", "--ckpt", run.checkpoint, "--scores", "mae", *places]
    assert switchq(*command).code == 2
    assert output.read_text() == "mine"
    assert switchq(*command, "--overwrite", "true").code == 0
    assert list(Sensitivity.read(output).scores) == ["mae"]
