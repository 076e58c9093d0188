"""`switchq fit | validate | test`, from configuration files to what a run leaves behind."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from workshop import Workshop

from switchq.cli import main
from switchq.commands import train
from switchq.training.checkpoint import load_checkpoint, read_checkpoint
from switchq.training.module import SwitchableModule

from .conftest import Outcome, Run, write_config

CONFIGS = Path(__file__).parents[2] / "configs"
LOCAL = ["quickstart.yaml", *sorted(f"local/{path.name}" for path in (CONFIGS / "local").glob("*.yaml"))]
SMALL = [
    "--model.rank", "{8: 2, 4: 2, 2: 2}", "--model.bitmaps", "[2]", "--trainer.max_steps", "1",
    "--trainer.limit_val_batches", "0", "--summary.questions", "2", "--data.holdout", "0", "--data.batch_size", "2",
    "--data.limit_train", "20", "--data.limit_dev", "4",
]  # fmt: skip
GROUPS = ["--model.grid", "Asymmetric", "--model.grid.group_size", "16"]

Switchq = Callable[..., Outcome]


def test_a_run_leaves_a_checkpoint_results_logs_and_adapters(run: Run) -> None:
    names = {path.relative_to(run.folder).as_posix().split(".tfevents")[0] for path in run.folder.rglob("*.*")}
    assert {
        "checkpoints/last.ckpt", "config.yaml", "hparams.yaml", "before.json", "results.json", "events.out",
        "adapters/bits_8/adapter_model.safetensors", "adapters/bits_2/adapter_config.json",
    } <= names  # fmt: skip
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == 2
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["schedule"]["class_path"].endswith("SPNet")
    assert config["trainer"]["max_steps"] == 2


def test_what_is_printed(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    done = switchq("fit", "--config", write_config(workshop, tmp_path))
    assert done.code == 0
    lines = done.err.splitlines()
    assert [line for line in lines if " data: " in line] == [
        "training data: 40 sequences of 33 tokens on average, all fit 96",
        "held-out data: 4 sequences of 33 tokens on average, all fit 96",
        "dev data: 6 sequences of 34 tokens on average, all fit 96",
    ]
    known = (" data: ", "eval ", "step 2  16: F1")
    assert [line for line in lines if line.strip() and not any(part in line for part in known)] == []
    for part in ("→", "Try next", "Checkpoint", "switchq eval --ckpt", "--bitmap 8 --bitmap 8/4 --bitmap 2 --output"):
        assert part in done.out


def test_the_progress_bar_can_be_turned_off(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    done = switchq("fit", "--config", write_config(workshop, tmp_path), "--trainer.enable_progress_bar", "false")
    assert done.code == 0
    assert "step 2" not in done.err
    assert "→" in done.out


def test_ckpt_path_last_goes_on(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(workshop, tmp_path)
    quick = ("--summary.enabled", "false", "--trainer.limit_val_batches", 0, "--model.decay", "constant_with_warmup")
    assert switchq("fit", "--config", config, *quick, "--trainer.max_steps", 5).code == 0
    whole = load_checkpoint(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt")
    assert switchq("fit", "--config", config, *quick, "--trainer.max_steps", 2).code == 0
    looked: list[str] = []
    monkeypatch.setattr(train, "read_checkpoint", lambda path: looked.append(path) or read_checkpoint(path))
    done = switchq("fit", "--config", config, *quick, "--trainer.max_steps", 5, "--ckpt_path", "last")
    assert done.code == 0, done.err
    assert len(looked) == 1, "checked from one reading, which of a large model takes seconds"
    again = load_checkpoint(tmp_path / "lightning_logs/version_2/checkpoints/last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    "other",
    [["--model.bitmaps", "[4,2]"], ["--data.limit_dev", "3"], ["--summary.questions", "2"]],
    ids=lambda one: one[0],
)
def test_scores_of_other_questions_or_bitmaps_are_not_compared(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, other: list[str]
) -> None:
    config = write_config(workshop, tmp_path)
    quick = ("--trainer.limit_val_batches", 0, "--trainer.max_steps")
    assert "Before → after 1 step," in switchq("fit", "--config", config, *quick, 1).out
    same = switchq("fit", "--config", config, *quick, 2, "--ckpt_path", "last")
    assert "Before → after 2 steps" in same.out
    done = switchq("fit", "--config", config, *quick, 3, *other, "--ckpt_path", "last")
    assert done.code == 0, done.err
    asked = {"--data.limit_dev": 3, "--summary.questions": 2}.get(other[0], 6)
    assert f"\nAfter 3 steps, {asked} questions (dev.json)\n" in done.out
    assert "Other questions or bitmaps were scored before training" in done.out
    assert not (tmp_path / "lightning_logs/version_2/before.json").exists()


def test_few_batches_in_an_epoch_are_nothing_to_warn_of(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, recwarn: pytest.WarningsRecorder
) -> None:
    """Steps are logged by their number in the whole run."""
    options = ("--trainer.limit_val_batches", 0, "--trainer.max_steps", 1, "--trainer.log_every_n_steps", 500)
    assert switchq("fit", "--config", write_config(workshop, tmp_path), *options).code == 0
    assert [str(one.message) for one in recwarn if "logging interval" in str(one.message)] == []


def test_a_finished_run_says_that_nothing_is_left(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    config = write_config(workshop, tmp_path)
    quick = ("--trainer.limit_val_batches", 0, "--trainer.max_steps", 2)
    assert "nothing left to train" not in switchq("fit", "--config", config, *quick).err
    done = switchq("fit", "--config", config, *quick, "--ckpt_path", "last")
    assert done.code == 0, done.err
    assert "the checkpoint is at step 2, and --trainer.max_steps is 2: there is nothing left to train" in done.err
    assert "Before → after 2 steps" in done.out


@pytest.mark.parametrize("start", ["qera", "apiq"])
def test_a_run_that_goes_on_is_not_started_again(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(workshop, tmp_path)
    quick = ("--summary.enabled", "false", "--trainer.limit_val_batches", 0)
    quick += ("--model.adapter_start", start, "--model.start_steps", 2, "--trainer.max_steps")
    assert switchq("fit", "--config", config, *quick, 2).code == 0
    monkeypatch.setattr("switchq.training.module.start_from_inputs", lambda *_, **__: pytest.fail("started again"))
    done = switchq("fit", "--config", config, *quick, 3, "--ckpt_path", "last")
    assert done.code == 0, done.err


@pytest.mark.parametrize("schedule", ["SPNet", "Cyclic", "InstantNet"])
@pytest.mark.parametrize(
    "grid", [[], ["--model.grid", "Asymmetric", "--model.grid.group_size", "16"]], ids=["rows", "groups"]
)
def test_schedules_and_grids_by_name(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, schedule: str, grid: list[str]
) -> None:
    config = write_config(workshop, tmp_path)
    done = switchq("fit", "--config", config, "--schedule", schedule, *grid, "--summary.enabled", "false")
    assert done.code == 0, done.err
    loaded = load_checkpoint(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt")
    assert type(loaded.model._switch.layers[0].linear.grid).__name__ == ("Asymmetric" if grid else "Symmetric")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_scored(run: Run, tmp_path: Path, switchq: Switchq, command: str) -> None:
    root = ("--trainer.default_root_dir", tmp_path)
    done = switchq(command, "--config", run.folder / "config.yaml", "--ckpt_path", run.checkpoint, *root)
    assert done.code == 0, done.err
    title, *table = done.out.splitlines()
    assert title.startswith(f"{run.checkpoint} on ")
    assert "DataLoader" not in done.out
    assert {"16", "8", "2"} <= {line.split()[0] for line in table}
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("validate", "give data.val"),
        ("test", "give data.test"),
        ("fit --trainer.max_steps 1", "give data.test, or --summary.enabled false"),
    ],
)
def test_without_anything_to_score_it_says_so(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, command: str, advice: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a b c " * 100)
    options = ("--data", "TextData", "--data.train", text, "--trainer.default_root_dir", tmp_path / "root")
    done = switchq(*command.split(), "--model.base", workshop.base, *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"switchq: error: there is nothing to score: {advice}"
    assert not (tmp_path / "root").exists()


def test_without_held_out_questions_it_says_so(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    root = ("--data.holdout", 0, "--trainer.default_root_dir", tmp_path / "root")
    done = switchq("validate", "--config", write_config(workshop, tmp_path), *root)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "switchq: error: there is nothing to score: set data.holdout above 0"
    assert not (tmp_path / "root").exists()


def test_text_without_anything_to_score_trains(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a b c " * 100)
    options = ("--data", "TextData", "--data.train", text, "--trainer.default_root_dir", tmp_path / "root")
    few = ("--trainer.max_steps", 1, "--trainer.accelerator", "cpu", "--summary.enabled", "false")
    done = switchq("fit", "--model.base", workshop.base, *options, *few)
    assert done.code == 0, done.err


TRAINING = sorted(path for path in CONFIGS.rglob("*.yaml") if not {"ptq", "transfer"} & {path.parent.name, path.stem})


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_configuration_parses(path: Path, switchq: Switchq) -> None:
    done = switchq("fit", "--config", path, "--print_config")
    assert done.code == 0, done.err
    written = yaml.safe_load(path.read_text())
    parsed = yaml.safe_load(done.out)
    assert parsed["model"]["base"] == written["model"]["base"]
    assert parsed["trainer"]["max_steps"] == written["trainer"]["max_steps"]


@pytest.mark.parametrize("name", LOCAL)
def test_the_local_configurations_train(
    name: str, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    done = switchq("fit", "--config", CONFIGS / name, *SMALL, "--trainer.default_root_dir", tmp_path)
    assert done.code == 0, done.err
    (result,) = json.loads((tmp_path / "lightning_logs/version_0/results.json").read_text())
    assert result["n_questions"] == 2
    assert "training data: " in done.err


ELSEWHERE = [path for path in TRAINING if path.relative_to(CONFIGS).as_posix() not in LOCAL]


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_the_other_configurations_run_one_batch(
    path: Path, workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny model and tiny data in place of those of the Hub."""
    monkeypatch.chdir(CONFIGS.parent)
    (tmp_path / "text.txt").write_text("House 1 is in Rome. It has a red door. " * 80)
    settings = yaml.safe_load(path.read_text())
    given = settings["data"].get("init_args", settings["data"])
    places = {"train": workshop.train, "dev": workshop.dev}
    if settings["data"].get("class_path", "").endswith("TextData"):
        places = {name: tmp_path / "text.txt" for name in ("train", "val", "test")}
    options = [
        "--model.base", workshop.base, "--model.rank", "{8: 2, 4: 2, 2: 2}", "--model.bitmaps", "[2]",
        "--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--trainer.accelerator", "cpu",
        "--trainer.default_root_dir", tmp_path, "--trainer.precision", "32-true", "--summary.enabled", "false",
    ]  # fmt: skip
    options += [part for name, place in places.items() if name in given for part in (f"--data.{name}", place)]
    options += ["--data.holdout", 4] if "dev" in places else ["--data.window", 32]
    options += ["--model.grid.group_size", 16] if "grid" in settings["model"] else []
    options += ["--data.max_length", 96] if "max_length" in given else []
    options += ["--data.batch_size", 2]
    done = switchq("fit", "--config", path, *options)
    assert done.code == 0, done.err
    assert list(tmp_path.glob("lightning_logs/version_0/checkpoints/last.ckpt"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_is_told_to_end_keeps_its_step_and_fails(
    accumulate: int, workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first batch of the second step; the others of that step are waited for."""
    step = SwitchableModule.training_step

    def told(self: SwitchableModule, *arguments: object) -> None:
        if self.global_step == 1 and not self.waiting:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SwitchableModule, "training_step", told)
    config, quick = write_config(workshop, tmp_path), ["--summary.enabled", "false", "--trainer.limit_val_batches", 0]
    quick += ["--model.accumulate", accumulate]
    done = switchq("fit", "--config", config, *quick, "--trainer.max_steps", 4)
    assert done.code == 3
    assert "told to end (SIGTERM). Step 2 is kept" in done.err
    assert "--ckpt_path last to go on" in done.err
    monkeypatch.setattr(SwitchableModule, "training_step", step)
    done = switchq("fit", "--config", config, *quick, "--trainer.max_steps", 4, "--ckpt_path", "last")
    assert done.code == 0, done.err


def test_a_run_that_is_told_to_end_while_it_validates(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the next step; told twice, at once, and what was saved before stays."""
    validate, times = SwitchableModule.validation_step, 1

    def told(self: SwitchableModule, *arguments: object) -> None:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
        validate(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SwitchableModule, "validation_step", told)
    config = write_config(workshop, tmp_path)
    quick = ("--summary.enabled", "false", "--trainer.val_check_interval", 2, "--trainer.max_steps", 8)
    done = switchq("fit", "--config", config, *quick)
    assert done.code == 3
    assert "told to end (SIGTERM). Step 3 is kept" in done.err
    times = 2
    done = switchq("fit", "--config", config, *quick, "--checkpoint.every_n_steps", 1)
    assert done.code == 3
    assert "told to end (SIGTERM). Step 2 is kept" in done.err


def test_ctrl_c_during_the_run_says_how_to_go_on(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SwitchableModule.training_step

    def pressed(self: SwitchableModule, *arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SwitchableModule, "training_step", pressed)
    config = write_config(workshop, tmp_path)
    done = switchq("fit", "--config", config, "--summary.enabled", "false")
    assert done.code == 0
    assert "Stopped after step 1 and saved" in done.err
    assert "--ckpt_path last" in done.err


def test_help_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        "--model.base",
        "--schedule",
        "--checkpoint.every_n_steps",
        "--summary.enabled",
        "--trainer.max_steps",
    ):
        assert option in out
