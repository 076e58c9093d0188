"""All scores together: the record, what is left on the model (nothing), and memory that does not grow with depth."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from switchq.errors import UserError
from switchq.models import blocks_of
from switchq.nn import set_bitmap
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity import (
    SCORES,
    Sensitivity,
    divergences,
    fisher_scores,
    measure,
    output_errors,
)

from .conftest import BITS, MakeSwitchable, state

MEASUREMENTS = (output_errors, divergences, fisher_scores)


def test_the_record_reads_back(switchable: MakeSwitchable, batches: list[Batch], tmp_path: Path) -> None:
    model = switchable()
    result = measure(model, batches, (2, 8, 4, 4), progress=False, run={"base": "tiny"})
    assert result.bits == (8, 4, 2)
    assert tuple(result.scores) == SCORES
    assert result.weights[:4] == (32 * 96, 32 * 32, 32 * 128, 128 * 32)
    torch.testing.assert_close(torch.tensor(result.scores["kl"][4]).double(), divergences(model, batches, (4,))[:, 0])
    torch.testing.assert_close(
        torch.tensor(result.scores["mae"][2]).double(), output_errors(model, batches, (2,))[1][:, 0]
    )
    assert result.cost["mse"]["forwards"] == 1
    assert result.cost["kl"]["forwards_naive"] == 8 * 3 + 1
    assert result.cost["kl"]["forwards"] == (2 + 1 + 3 * (4 * 2 + 4)) / 2
    assert result.cost["fisher"]["seconds"] > 0
    result.write(tmp_path / "s.json")
    back = Sensitivity.read(tmp_path / "s.json")
    assert (back.layers, back.bits, back.scores) == (result.layers, result.bits, result.scores)
    assert back.correlations == result.correlations
    assert back.correlations["mse@4"]["kl@4"] == pytest.approx(result.correlations["kl@4"]["mse@4"])


def test_only_the_scores_asked_for(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    result = measure(switchable(), batches, BITS, ["mae", "fisher"], progress=False)
    assert list(result.scores) == list(result.cost) == ["mae", "fisher"]
    assert result.correlations.keys() == {f"{name}{at}" for name in ("mae", "fisher") for at in ("", "@8", "@4", "@2")}


@pytest.mark.parametrize(
    ("scores", "bits", "says"),
    [(["mse", "rank"], BITS, "no score 'rank'"), (["mse"], (9,), "no bit-width 9"), ([], BITS, "nothing to measure")],
    ids=["score", "width", "nothing"],
)
def test_refused(
    scores: list[Any], bits: tuple[int, ...], says: str, switchable: MakeSwitchable, batches: list[Batch]
) -> None:
    with pytest.raises(UserError, match=says):
        measure(switchable(), batches, bits, scores, progress=False)


@pytest.mark.parametrize("train_base", [False, True], ids=["frozen", "trained base"])
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
@pytest.mark.parametrize("call", MEASUREMENTS, ids=lambda call: call.__name__)
def test_leaves_no_trace(
    call: Any, fails: bool, train_base: bool, switchable: MakeSwitchable, batches: list[Batch]
) -> None:
    model = switchable("opt", {"extra": ["head", "embeddings"], "train_base": train_base}, word_embed_proj_dim=32)
    model.train()
    blocks_of(model)[1].eval()
    set_bitmap(model, "8/2", adapters=False)
    before = state(model)

    def stop(done: int) -> None:
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            call(model, batches, (8, 5, 2), advance=stop)
    else:
        call(model, batches, (8, 5, 2), advance=stop)
    assert state(model) == before


def peak_bytes(call: Callable[[], object], trace: Path) -> int:
    """The most bytes on the CPU that a call holds beyond what was there before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    profile.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes, initial=0))


@pytest.mark.parametrize("call", MEASUREMENTS, ids=lambda call: call.__name__)
def test_memory_does_not_grow_with_depth(
    call: Any, switchable: MakeSwitchable, batches: list[Batch], tmp_path: Path
) -> None:
    peaks = {}
    for depth in (2, 8):
        model = switchable(n_layer=depth, options={"bits": [8]})
        call(model, batches, BITS)
        peaks[depth] = peak_bytes(lambda: call(model, batches, BITS), tmp_path / "trace.json")  # noqa: B023
    input_bytes = 3 * 14 * 32 * 4
    grows = 6 * 1.1 * input_bytes if call is fisher_scores else input_bytes / 2  # six blocks more
    assert peaks[8] - peaks[2] <= grows
    assert peaks[2] > 5 * input_bytes
