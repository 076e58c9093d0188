"""Every shipped configuration of a comparison runs one item of each task, on the embedded model and questions.

Those of `fit` are in `test_fit.py`. Tasks that read a data set of another layout are left out here; they have tests of
their own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Outcome

Switchq = Callable[..., Outcome]

ROOT = Path(__file__).parents[2]

PATHS = [
    *sorted(ROOT.glob("configs/ptq/*.yaml")),
    ROOT / "configs/transfer.yaml",
    *ROOT.glob("configs/transfer/*.yaml"),
]

QUESTIONS, MODEL = "data/reading/dev.json", "data/tiny-gpt2"

READ = ("Perplexity", "Reading", "Speed")
"""The tasks that questions in SQuAD's layout serve."""


def small(settings: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with what is at hand, one method or strategy, and one item of each task."""
    tasks: dict[str, Any] = {one["class_path"]: one for one in settings["tasks"] if one["class_path"] in READ}
    for name, task in tasks.items():
        task["init_args"] |= {"source": QUESTIONS, "limit": 1} | ({} if name != "Perplexity" else {"window": 64})
    little = {"tasks": [*tasks.values()], "bits": [4], "group_size": 32, "samples": 1, "length": 32, "seeds": [0]}
    if "source" in settings:
        little |= {"source": MODEL, "target": MODEL, "strategies": ["matched"], "controls": ["random"]}
    else:
        little |= {"model": MODEL, "methods": ["rtn"]}
    return settings | little | {"calibration": [QUESTIONS]}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_it_runs(path: Path, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = small(yaml.safe_load(path.read_text()))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings | {"output": str(tmp_path / "out")}))
    command = "transfer" if "source" in settings else "ptq"
    done = switchq(command, "--config", tmp_path / "small.yaml", "--device", "cpu")
    assert done.code == 0, done.err
    (whole,) = (tmp_path / "out").glob("transfer.json" if command == "transfer" else "sweep.json")
    assert json.loads(whole.read_text())
