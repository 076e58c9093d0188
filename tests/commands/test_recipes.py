"""Every lever of the ablations is a set of options that `fit` takes, and that changes something."""

import re
import subprocess
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
