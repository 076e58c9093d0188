"""Every lever of the ablations is a set of options that `fit` takes, and that changes something."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Outcome

CONFIGS = Path(__file__).parents[2] / "configs"
FILE = CONFIGS / "recipes/levers.sh"
LEVERS = re.findall(r"^ +([\w-]+)\) (?:with=|lever )", FILE.read_text(), re.MULTILINE)

SCHEDULES = {"sandwich": "SPNet", "next": "InstantNet", "bare": "InstantNet"}
"""Those of levers that belong to a schedule; all others can be pulled in turns."""

TURNS = ["--schedule.mode", "turns", "--schedule.distill", "0.5"]

GROUPS = ["--model.grid", "Asymmetric", "--model.grid.group_size", "64", "--model.grid.scale", "mse"]


def options(lever: str) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", f'source "{FILE}" && lever {lever} && printf "%s\\n" "${{with[@]}}"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.parametrize("lever", LEVERS)
def test_a_lever_changes_the_run(lever: str, switchq: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    schedule = SCHEDULES.get(lever, "Cyclic")
    plain = ["--config", CONFIGS / "recipes/smollm2-squad.yaml", *GROUPS, "--schedule", schedule]
    plain += TURNS if schedule == "Cyclic" else []
    before, after = (switchq("fit", *plain, *more, "--print_config") for more in ([], options(lever)))
    assert (before.code, after.code) == (0, 0), after.err
    assert before.out != after.out


def test_levers_are_pulled_together() -> None:
    assert options("nested+kd-all+g32") == [*options("nested"), *options("kd-all"), *options("g32")]


@pytest.mark.parametrize("lever", ["levitate", "nested+levitate", "levitate+nested"])
def test_an_unknown_lever_is_said(lever: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        options(lever)
    assert error.value.stderr == "no row levitate\n"


STAND_IN = """#!{python}
import json, pathlib, sys

folder = pathlib.Path(sys.argv[sys.argv.index("--trainer.default_root_dir") + 1])
folder.mkdir(parents=True)
(folder / "told.json").write_text(json.dumps(sys.argv[2:]))
if "lora16" in folder.name:
    sys.exit(3)
run = folder / "lightning_logs/version_0"
run.mkdir(parents=True)
(run / "results.json").write_text('[{{"label": "16", "F1": 50, "answer_perplexity": 2}}]')
"""
"""In switchq's place: a run that takes no time and keeps what it was told, or fails if its row is lora16."""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs rows of a script with the stand-in; results go to OUT."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("switchq", STAND_IN.format(python=sys.executable)),
        ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in ("PASSES", "BATCH", "TUNE", "PARALLEL", "JOBS"):
        monkeypatch.delenv(name, raising=False)

    def run(script: str, rows: str, out: Path, seeds: str = "0") -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("ROWS", rows)
        given = ["MODEL", "TRAIN", "DEV"] if script == "smollm2-squad" else []
        return subprocess.run(
            ["bash", CONFIGS / f"recipes/{script}.sh", *given, str(out), *seeds.split()],
            capture_output=True, text=True, cwd=CONFIGS.parent,
        )  # fmt: skip

    return run


Recipe = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("together", [{}, {"PARALLEL": "1", "JOBS": "2"}], ids=["in turn", "together"])
@pytest.mark.parametrize("script", ["smollm2-squad", "tiny-ablation"])
def test_a_row_that_fails_is_said(
    script: str, together: dict[str, str], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others run; the exit code tells, and the log that is named is there."""
    for name, value in together.items():
        monkeypatch.setenv(name, value)
    for rows, code in (("lora16 spnet nothing", 1), ("spnet", 0)):
        out = tmp_path / f"out-{code}"
        done = recipe(script, rows, out)
        failed = dict(re.findall(r"^row (\S+) failed: see (\S+)$", done.stderr, re.MULTILINE))
        assert (done.returncode, sorted(failed)) == (code, ["lora16", "nothing"] if code else []), done.stderr
        assert all(Path(log).is_file() for log in failed.values())
        results = [path.relative_to(out).parts[0] for path in out.glob("*/lightning_logs/*/results.json")]
        assert results == ["spnet-seed0"]


def test_an_ablation_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    """What has results is left alone, what was cut off is trained anew, and the table has the mean of both seeds."""
    out = tmp_path / "out"
    cut_off = out / "spnet-seed0/lightning_logs/version_0/hparams.yaml"
    cut_off.parent.mkdir(parents=True)
    cut_off.write_text("")
    kept = out / "spnet-seed1/lightning_logs/version_0/results.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('[{"label": "16", "F1": 70, "answer_perplexity": 2}]')
    done = recipe("tiny-ablation", "spnet", out, "0 1")
    assert done.returncode == 0, done.stderr
    assert not cut_off.exists()
    assert "| spnet | 60.0 ± 10.0 |" in done.stdout
    assert [path.parent.name for path in out.glob("*/told.json")] == ["spnet-seed0"]


def test_an_ablation_without_any_result_is_said(recipe: Recipe, tmp_path: Path) -> None:
    done = recipe("tiny-ablation", "lora16", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.endswith(f"no row has results in {tmp_path / 'out'}\n"), done.stderr


MODEL_OF_A_ROW = ("bits", "grid", "rank", "shared_rank", "adapter_start", "shared_start", "lr", "shared_lr", "width_lr")


def printed(outcome: Outcome) -> dict[str, Any]:
    """The options that a run would have."""
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = yaml.safe_load(outcome.out)
    return found


@pytest.mark.parametrize(
    ("config", "row"),
    [
        ("cyclic", "turns-even-shared-start-fours"),
        ("spnet", "even-spnet-shared-start"),
        ("instantnet", "even-instantnet-shared-start"),
    ],
)
def test_a_configuration_is_a_row_of_the_table(
    config: str,
    row: str,
    recipe: Recipe,
    switchq: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each configuration and its local twin have the model and schedule of a row that README has figures of."""
    monkeypatch.chdir(CONFIGS.parent)
    recipe("smollm2-squad", row, tmp_path / "out")
    told = json.loads((tmp_path / f"out/{row}-seed0/told.json").read_text())
    measured = printed(switchq("fit", *told, "--print_config"))
    for name in (config, f"local/{config}"):
        shipped = printed(switchq("fit", "--config", CONFIGS / f"{name}.yaml", "--print_config"))
        for part in MODEL_OF_A_ROW:
            assert shipped["model"][part] == measured["model"][part], part
        schedule = shipped["schedule"]
        schedule["init_args"]["bitmaps"] = [str(one) for one in schedule["init_args"]["bitmaps"]]
        assert schedule == measured["schedule"]
        passes = shipped["trainer"]["max_steps"] * (1 if config == "cyclic" else len(schedule["init_args"]["bitmaps"]))
        assert passes == (600 if name.startswith("local") else 10_000)  # the same compute


@pytest.mark.parametrize("row", ["dedicated-4-shared-start-fours", "even-spnet-mixed"])
def test_a_lever_leaves_a_rows_own_bitmaps(row: str, recipe: Recipe, tmp_path: Path) -> None:
    assert recipe("smollm2-squad", row, tmp_path / "out").returncode == 0
    told = json.loads((tmp_path / f"out/{row}-seed0/told.json").read_text())
    last = max(place for place, word in enumerate(told) if word == "--schedule.bitmaps")
    assert told[last + 1] == ('["4"]' if row.startswith("dedicated") else '["8", "4", "3", "2"]')
