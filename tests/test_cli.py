"""The front door: help, version, unknown commands, exit codes, and what asking for help costs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from switchq import cli
from switchq.cli import COMMANDS, TRAINER_COMMANDS, main
from switchq.errors import UserError


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in (*TRAINER_COMMANDS, *COMMANDS):
        assert f"\n  {name} " in out
    assert "configs/quickstart.yaml" in out


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_help_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("switchq 0.")


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evla"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no command 'evla': there are fit, validate, test, eval, gendata" in err


OPTIONS = {
    "eval": [
        "ckpt", "model", "artifact", "grid", "group_size", "scale", "bitmap", "adapters", "data", "text", "base",
        "limit", "batch_size", "max_new_tokens", "window", "prefer", "device", "devices", "output",
        "predictions",
    ],
    "gendata": [
        "model", "output", "prompts", "source", "count", "max_new_tokens", "greedy_tokens", "temperature", "top_k",
        "batch_size", "teacher_top_k", "seed", "device", "devices",
    ],
    "sensitivity": [
        "ckpt", "model", "grid", "group_size", "scale", "output", "scores", "bits", "data", "text", "base", "limit",
        "batch_size", "window", "seed", "device", "devices", "logdir", "overwrite",
    ],
    "search": [
        "ckpt", "model", "grid", "group_size", "scale", "sensitivity", "method", "budget", "metric", "score", "cost",
        "average_bits", "weight_mb", "data", "questions", "dev", "dev_limit", "dev_points", "widths", "group",
        "greedy_share", "generations", "population", "batch_size", "max_new_tokens", "base", "seed", "device",
        "devices", "output", "overwrite",
    ],
    "ptq": [
        "model", "methods", "define", "bits", "group_size", "symmetric", "skip", "calibration", "samples", "length",
        "documents", "one_shot", "blocks_at_once", "seeds", "tasks", "limit", "checkpoint", "dtype", "batch_size",
        "device", "devices", "processes", "offload", "output", "save", "save_format",
        "overwrite",
    ],
    "verify": ["folder", "prompt", "max_new_tokens", "scores", "device"],
    "compare": ["run", "confidence", "seed", "output", "overwrite"],
    "transfer": [
        "source", "via", "target", "statistics", "strategies", "controls", "forms", "protect_ratio", "factor", "bits",
        "group_size", "symmetric", "skip", "calibration", "samples", "length", "documents", "one_shot",
        "blocks_at_once", "seeds", "tasks", "limit", "dtype", "batch_size", "device", "output", "overwrite",
    ],
    "report": ["run", "output", "figures", "title", "overwrite"],
    "export": [
        "output", "ckpt", "model", "format", "bits", "embeddings", "bitmap", "adapters", "text", "grid", "group_size",
        "scale", "base", "overwrite",
    ],
    "generate": [
        "artifact", "prompt", "bitmap", "schedule", "max_new_tokens", "temperature", "top_k", "seed", "prefer",
        "device",
    ],
    "bench": [
        "artifact", "bitmap", "prompt_tokens", "new_tokens", "repeats", "batch", "prefer", "device", "threads",
        "output",
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_a_command_are_these_and_all_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    offered = [line.split()[0].split(",")[0].strip("-") for line in out.splitlines() if line.startswith("  --")]
    assert [name for name in offered if name not in ("config", "print_config")] == OPTIONS[command]
    for name in OPTIONS[command]:
        assert f"--{name}" in out


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (UserError("no such\nthing"), 2, "switchq: error: no such thing\n"),
        (KeyboardInterrupt(), 130, "switchq: stopped\n"),
        (SystemExit(0), 0, ""),
    ],
    ids=["user error", "ctrl-c", "exit"],
)
def test_exit_codes(
    raised: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(args: list[str]) -> int:
        raise raised

    monkeypatch.setattr(cli, "_dispatch", fails)
    assert main(["eval"]) == code
    assert capsys.readouterr().err == says


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["eval"])


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 1.0), (["eval", "--help"], 2.0)], ids=["all", "eval"])
def test_help_is_quick_and_leaves_torch_alone(arguments: list[str], seconds: float) -> None:
    code = (
        "import sys; from switchq.cli import main; main(sys.argv[1:]); "
        "sys.exit(sorted({'torch', 'lightning', 'transformers', 'datasets'} & set(sys.modules)) or 0)"
    )
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        best = min(best, time.perf_counter() - start)
        assert (done.returncode, done.stderr) == (0, "")
    assert best < seconds


def test_what_is_typed_replaces_what_a_file_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr("switchq.commands.ptq.ptq_command", lambda **arguments: seen.update(arguments))
    (tmp_path / "a.yaml").write_text("methods: [rtn, awq]\nbits: [8, 4]\nskip: [head]\n")
    config = ["--config", str(tmp_path / "a.yaml")]
    assert main(["ptq", "--bits", "3", "--methods", "gptq", *config, "--bits", "2"]) == 0
    assert (seen["methods"], seen["bits"], seen["skip"]) == (["gptq"], [3, 2], ["head"])


def test_a_file_of_settings_runs_no_class_that_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr("switchq.commands.ptq.ptq_command", lambda **arguments: seen.update(arguments))
    spec = {"class_path": "pathlib.Path", "init_args": {}}
    (tmp_path / "a.yaml").write_text(f"tasks: [{spec}]\ndefine: {{a: {spec}}}\n")
    assert main(["ptq", "--config", str(tmp_path / "a.yaml")]) == 0
    assert (seen["tasks"], seen["define"]) == ([spec], {"a": spec})
