"""What is measured batch by batch is kept: a run that was stopped measures the rest, and ends with the same bits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.posttraining.calibration import Batch
from switchq.posttraining.journal import Busy
from switchq.posttraining.sensitivity import Sensitivity, measure
from switchq.posttraining.sensitivity.kept import claim, measurement_key

from .conftest import BITS, MakeSwitchable

RECORD = {"base_hash": "a", "checkpoint_sha256": None, "device": "cpu", "dtype": "float32", "time": "now"}

ONE_EACH = 3
"""Parts that are measured: both errors of outputs, kl, fisher."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each batch that is measured."""
    seen: list[int] = []
    to = Batch.to

    def noted(self: Batch, device: torch.device) -> Batch:
        seen.append(len(self))
        return to(self, device)

    monkeypatch.setattr(Batch, "to", noted)
    return seen


def run(model: PreTrainedModel, batches: list[Batch], path: Path, key: str = "k") -> Sensitivity:
    journal = claim(path, {"key": key}, overwrite=False)
    try:
        return measure(model, batches, BITS, progress=False, run={}, journal=journal)
    finally:
        journal.close()


@pytest.mark.parametrize("done", range(2 * ONE_EACH))
def test_a_stopped_run_goes_on(
    done: int, switchable: MakeSwitchable, batches: list[Batch], tmp_path: Path, counted: list[int], monkeypatch: Any
) -> None:
    model = switchable()
    whole = measure(model, batches, BITS, progress=False, run={})
    assert len(counted) == 2 * ONE_EACH
    counted.clear()
    to = Batch.to

    def stops(self: Batch, device: torch.device) -> Batch:
        if len(counted) == done:
            raise KeyboardInterrupt
        return to(self, device)

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "to", stops)
        with pytest.raises(KeyboardInterrupt):
            run(model, batches, tmp_path / "j")
    with (tmp_path / "j").open("a") as file:
        file.write('{"batch": {"part": "kl", "num')  # cut short by a kill
    counted.clear()
    result = run(model, batches, tmp_path / "j")
    assert len(counted) == 2 * ONE_EACH - done
    assert result.scores == whole.scores
    assert all(cost["seconds"] > 0 for cost in result.cost.values())


def test_values_that_are_not_finite_are_kept(switchable: MakeSwitchable, batches: list[Batch], tmp_path: Path) -> None:
    model = switchable()
    with torch.no_grad():
        next(iter(model.base_model.parameters())).fill_(float("inf"))
    first, again = (run(model, batches, tmp_path / "j").scores for _ in range(2))
    assert first == again
    assert set(first["kl"][8]) == {float("inf")}


def test_another_measurement_is_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = claim(path, {"key": "one"}, overwrite=False)
    with pytest.raises(Busy, match="another measurement is writing"):
        claim(path, {"key": "one"}, overwrite=True)
    journal.add("batch", {"part": "kl", "number": 0, "sums": [1], "seconds": 1.0})
    journal.close()
    with pytest.raises(UserError, match="unfinished measurement of another model or with other settings"):
        claim(path, {"key": "two"}, overwrite=False)
    same = claim(path, {"key": "one"}, overwrite=True)
    assert len(same.entries["batch"]) == 1
    same.close()
    claim(path, {"key": "two"}, overwrite=True).close()
    assert [json.loads(line)["header"]["key"] for line in path.read_text().splitlines()] == ["two"]


def test_the_key_knows_the_data_and_the_settings(batches: list[Batch]) -> None:
    key = measurement_key(RECORD, {"widths": [8]}, batches)
    assert measurement_key({**RECORD, "time": "later"}, {"widths": [8]}, batches) == key
    other = replace(batches[0], targets_N=batches[0].targets_N.flip(0))
    found = {
        key,
        measurement_key({**RECORD, "base_hash": "b"}, {"widths": [8]}, batches),
        measurement_key(RECORD, {"widths": [4]}, batches),
        measurement_key(RECORD, {"widths": [8]}, batches[:1]),
        measurement_key(RECORD, {"widths": [8]}, [other, batches[1]]),
    }
    assert len(found) == 5
