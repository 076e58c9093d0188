"""Adapters trained block by block: errors by hand, what stays, devices that share a batch, and a run that starts so."""

import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from workshop import Workshop, padded

from switchq.errors import UserError
from switchq.models import blocks_of, make_switchable
from switchq.nn import at
from switchq.training import block_start
from switchq.training.block_start import start_by_block
from switchq.training.calibrated_start import start_from_inputs
from switchq.training.callbacks import SPNet
from switchq.training.module import SwitchableModule

RANKS = {8: 2, 4: 3, 2: 4}

Batch = dict[str, Tensor]


@pytest.fixture
def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [padded(torch.randint(0, 90, (4, 12), generator=generator), real) for real in (12, 5, 9)]


@pytest.fixture
def started(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> Callable[..., PreTrainedModel]:
    """A switchable model whose adapters start from inputs."""

    def build(architecture: str = "gpt2", **options: Any) -> PreTrainedModel:
        model = make_switchable(tiny(architecture), bits=(8, 4, 2), rank=RANKS, shared_rank=2, **options)
        start_from_inputs(model, batches)
        return model

    return build


@torch.no_grad()
def outputs(model: PreTrainedModel, tokens_BT: Tensor, bits: int) -> list[tuple[Tensor, Tensor]]:
    """Every block's input and output in a whole forward, caught by hooks."""
    caught: list[tuple[Tensor, Tensor]] = []
    hooks = [
        block.register_forward_hook(lambda module, arguments, output: caught.append((arguments[0], output)))
        for block in blocks_of(model)
    ]
    with at(model, bits, adapters=bits != 16):
        model.eval()(tokens_BT)
    for hook in hooks:
        hook.remove()
    return caught


def errors(model: PreTrainedModel, batches: list[Batch], bits: int) -> list[float]:
    """E of every block over all real tokens."""
    sums, tokens = [0.0] * len(blocks_of(model)), 0
    for batch in batches:
        real_BT = batch["attention_mask"].bool()
        both = zip(outputs(model, batch["input_ids"], bits), outputs(model, batch["input_ids"], 16), strict=True)
        for index, ((input_BTI, output_BTI), (_, wanted_BTI)) in enumerate(both):
            off_N = (output_BTI - wanted_BTI)[real_BT].square().sum(-1) / input_BTI[real_BT].square().sum(-1)
            sums[index] += float(off_N.sum())
        tokens += int(real_BT.sum())
    return [one / tokens for one in sums]


def test_blocks_come_nearer_to_the_float_model(
    started: Callable[..., PreTrainedModel], architecture: str, batches: list[Batch]
) -> None:
    """What is returned is what a whole forward shows, though each block was only run by itself."""
    model = started(architecture)
    starts = errors(model, batches, 2)
    found = start_by_block(model, batches, (8, 4, 2), steps=40)
    assert list(found) == [4, 2]
    for bits, pairs in found.items():
        assert [after for _, after in pairs] == pytest.approx(errors(model, batches, bits), rel=1e-3)
    assert found[2][0][0] == pytest.approx(starts[0], rel=1e-3)  # the blocks behind it get other inputs by then
    assert all(after < before for before, after in found[2])
    assert found[2][-1][1] < starts[-1]


def test_only_the_narrow_widths_own_adapters_learn(
    started: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    model = started()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = {name: module.training for name, module in model.named_modules()}
    start_by_block(model, batches, (8, 4, 2), steps=5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".bits_4." in name or ".bits_2." in name}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert training == {name: module.training for name, module in model.named_modules()}


def test_learned_scales_learn_too(started: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = started(learn_scales=True)
    start_by_block(model, batches, (2,), steps=5)
    scales = {name: value for name, value in model.named_parameters() if "log_scale" in name}
    assert {name for name, value in scales.items() if value.any()} == {
        name for name in scales if name.endswith("_2bit")
    }


def test_a_block_that_gets_worse_keeps_its_start(
    started: Callable[..., PreTrainedModel], batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_start, "RATE", 1e3)
    model = started()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = start_by_block(model, batches, (2,), steps=3)
    assert all(first == last for first, last in found[2])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_devices_that_share_the_batches_find_the_same(
    started: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    """Two threads stand for two devices; each has other rows of every batch, one of them of one batch nothing real."""
    batches[1]["attention_mask"][1::2] = 0
    whole = started()
    models = [deepcopy(whole) for _ in range(2)]
    expected = start_by_block(whole, batches, (4, 2), steps=4)
    meet, given, results = threading.Barrier(2), [torch.empty(0)] * 2, [{}, {}]

    def work(number: int) -> None:
        def joint(tensor: Tensor) -> Tensor:
            given[number] = tensor
            meet.wait()
            total = given[0] + given[1]
            meet.wait()
            return total

        mine = [{name: value[number::2] for name, value in batch.items()} for batch in batches]
        results[number] = start_by_block(models[number], mine, (4, 2), steps=4, joint=joint)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    for bits in (4, 2):
        for mine, theirs in zip(results[0][bits], expected[bits], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
    states = [model.state_dict() for model in (whole, *models)]
    for name, value in states[0].items():
        assert torch.equal(states[1][name], states[2][name])
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-5)


def test_nothing_to_start_from(started: Callable[..., PreTrainedModel]) -> None:
    assert start_by_block(started(), [], (4, 2), steps=3) == {}


def test_a_run_starts_so_once(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run trains its adapters before the first step; a resumed one keeps what it has."""
    options: dict[str, Any] = {"rank": RANKS, "lr": 0.0, "start_batches": 2, "start_steps": 3}
    run = workshop.fit(SPNet(), tmp_path, 1, SwitchableModule(str(workshop.base), adapter_start="apiq", **options))
    started = workshop.fit(
        SPNet(), tmp_path / "qera", 1, SwitchableModule(str(workshop.base), adapter_start="qera", **options)
    )
    data = workshop.data()
    data.setup("fit")
    found = list(data.train_dataloader())[:2]
    assert errors(run.model, found, 2)[0] < errors(started.model, found, 2)[0]
    kept = {name: value.clone() for name, value in run.state_dict().items() if "lora" in name}
    monkeypatch.setattr("switchq.training.module.start_by_block", lambda *_, **__: pytest.fail("started again"))
    resumed = SwitchableModule(str(workshop.base), adapter_start="apiq", **options)
    resumed = workshop.fit(SPNet(), tmp_path, 2, resumed, resume=True)
    for name, value in kept.items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_no_steps_are_refused(workshop: Workshop) -> None:
    with pytest.raises(UserError, match=r"model\.start_steps must be at least 1, not 0"):
        SwitchableModule(str(workshop.base), adapter_start="apiq", start_steps=0)
