"""Every verb that writes, killed twice at random moments; `python tests/faults/kill.py` does it twenty times."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from .verbs import VERBS, check_whole, first_difference


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What the harness found, by verb; it runs in a process of its own, which can still fork."""
    command = [sys.executable, str(Path(__file__).with_name("kill.py")), "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.strip(), done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", VERBS)
def test_a_killed_command_ends_like_an_unbroken_one(name: str, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[name]
    assert outcome["wrong"] == []
    assert outcome["redone"] == 0
    assert outcome["kills"] == 2
    assert outcome["attempts"] > outcome["rounds"] >= 1
    assert outcome["units"] > 0


def test_the_harness_sees_a_half_written_file(tmp_path: Path) -> None:
    save_file({}, tmp_path / "good.safetensors")
    (tmp_path / ".half.json.1.part").write_text("{")
    assert check_whole(tmp_path) == []
    (tmp_path / "half.json").write_text("{")
    (tmp_path / "half.csv").write_text("a,b\n1,2\n3")
    assert [line.partition(":")[0] for line in check_whole(tmp_path)] == ["half.csv", "half.json"]


def test_the_harness_sees_a_difference() -> None:
    one: dict[str, Any] = {"a": [1, {"b": 2.0}], "c": "d"}
    assert first_difference(one, json.loads(json.dumps(one))) is None
    assert first_difference(one, {"a": [1, {"b": 2.5}], "c": "d"}) == ".a[1].b: 2.0 and 2.5"
    assert first_difference(one, {"a": [1]}) is not None
