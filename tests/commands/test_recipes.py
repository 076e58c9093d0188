"""Every lever of the ablations is a set of options that `fit` takes, and that changes something."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_an_unknown_lever_is_said() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        options("levitate")
    assert error.value.stderr == "no row levitate\n"


STAND_IN = """#!{python}
import pathlib, sys

folder = pathlib.Path(sys.argv[sys.argv.index("--trainer.default_root_dir") + 1])
if "lora16" in folder.name:
    sys.exit(3)
run = folder / "lightning_logs/version_0"
run.mkdir(parents=True)
(run / "results.json").write_text('[{{"label": "16", "F1": 50, "answer_perplexity": 2}}]')
"""
"""In switchq's place: a run that takes no time, or fails if its row is lora16."""


@pytest.mark.parametrize("together", ["", "1"])
@pytest.mark.parametrize("script", ["smollm2-squad", "tiny-ablation"])
def test_a_row_that_fails_is_said(script: str, together: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others run; the exit code tells."""
    program = tmp_path / "bin/switchq"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for rows, code in (("lora16 spnet nothing", 1), ("spnet", 0)):
        out = tmp_path / f"out-{code}"
        given = ["MODEL", "TRAIN", "DEV", out] if script == "smollm2-squad" else [out]
        for name, value in {"ROWS": rows, "PARALLEL": together, "JOBS": "2" if together else "1"}.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run(
            ["bash", CONFIGS / f"recipes/{script}.sh", *map(str, given)],
            capture_output=True,
            text=True,
            cwd=CONFIGS.parent,
        )
        failed = sorted(re.findall(r"^row (\S+) failed: see .*-seed0\.log$", done.stderr, re.MULTILINE))
        assert (done.returncode, failed) == (code, ["lora16", "nothing"] if code else []), done.stderr
        assert [path.name for path in out.iterdir() if path.is_dir()] == ["spnet-seed0"]
