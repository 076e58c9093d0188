"""The adapters' start from real inputs: against inputs caught by hand, for every architecture, and in a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from workshop import Workshop, padded

from switchq.data.batches import IGNORED, counted
from switchq.errors import UserError
from switchq.models import make_switchable
from switchq.nn import SwitchLayer, set_bitmap, switch_layers
from switchq.nn.starts import Metric, start_at_residual
from switchq.training.calibrated_start import start_from_inputs
from switchq.training.callbacks import SPNet
from switchq.training.module import SwitchableModule

RANKS = {8: 2, 4: 3, 2: 4}


@torch.no_grad()
def output_error(layer: SwitchLayer, bits: int, inputs_NI: Tensor, adapted: bool = True) -> float:
    """Norm of what rounding, and the adapters of `bits`, change in the layer's output."""
    left_OI = layer.linear.weight - layer.linear.rounded(bits)
    a_RI, b_OR = layer.low_rank(bits)  # type: ignore[misc]
    return float((inputs_NI @ (left_OI - adapted * b_OR @ a_RI).T).norm())


@pytest.mark.parametrize("memory", [1, 2**30], ids=["a layer at a time", "all at once"])
def test_every_layer_starts_from_its_own_inputs(tiny: Any, architecture: str, tokens_BT: Tensor, memory: int) -> None:
    """Padding counts for nothing, and layers that share an input agree with those that are looked at alone."""
    model = make_switchable(tiny(architecture), bits=(4, 2), rank={4: 2, 2: 3}, shared_rank=2)
    expected = make_switchable(tiny(architecture), bits=(4, 2), rank={4: 2, 2: 3}, shared_rank=2)
    expected.load_state_dict(model.state_dict())
    batch = padded(tokens_BT, 3)
    caught: dict[str, Tensor] = {}
    hooks = [
        layer.linear.register_forward_pre_hook(
            lambda module, arguments, name=layer.name: caught.__setitem__(name, arguments[0])
        )
        for layer in switch_layers(expected)
    ]
    set_bitmap(expected, 16, adapters=False)
    with torch.no_grad():
        expected.eval()(tokens_BT)
    for hook in hooks:
        hook.remove()
    for layer in switch_layers(expected):
        real_NI = caught[layer.name].flatten(0, -2)[batch["attention_mask"].flatten() == 1]
        for name in ("bits_4", "bits_2"):
            torch.manual_seed(0)
            start_at_residual(layer.lora, name, Metric.of(real_NI.T @ real_NI / len(real_NI)))  # type: ignore[arg-type]
    assert start_from_inputs(model, [batch], memory) == ["bits_4", "bits_2"]
    for mine, theirs in zip(switch_layers(model), switch_layers(expected), strict=True):
        inputs_NI = caught[mine.name].flatten(0, -2)[batch["attention_mask"].flatten() == 1]
        for bits in (4, 2):
            left = [output_error(layer, bits, inputs_NI) for layer in (mine, theirs)]
            assert left[0] == pytest.approx(left[1], rel=0.02)
            assert left[0] < 0.95 * output_error(mine, bits, inputs_NI, adapted=False)


def test_logits_come_closer_than_with_loftq(tiny_gpt2: Any) -> None:
    tokens_BT = torch.randint(0, 90, (16, 12), generator=torch.Generator().manual_seed(3))
    original = tiny_gpt2()(tokens_BT).logits
    errors = {}
    for start in ("zero", "loftq", "qera"):
        model = make_switchable(tiny_gpt2(), bits=(2,), rank={2: 8}, start=start)
        if start == "qera":
            start_from_inputs(model, [padded(tokens_BT, 12)])
        set_bitmap(model, 2)
        with torch.no_grad():
            errors[start] = float((model(tokens_BT).logits - original).norm())
    assert errors["qera"] < errors["loftq"] < errors["zero"]


def test_adapters_that_have_learned_are_left_alone(tiny_gpt2: Any, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_gpt2(), bits=(4, 2), rank={4: 2, 2: 3})
    assert start_from_inputs(model, [padded(tokens_BT, 3)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_from_inputs(model, [padded(tokens_BT, 2)]) == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_run_starts_its_adapters_once(workshop: Workshop, tmp_path: Path) -> None:
    """A new run takes the start from its first batches before the first step; a resumed one keeps what it learned."""
    run = workshop.fit(
        SPNet(), tmp_path, 1, SwitchableModule(str(workshop.base), adapter_start="qera", rank=RANKS, lr=0.0)
    )
    expected = SwitchableModule(str(workshop.base), rank=RANKS)
    data = workshop.data()
    data.setup("fit")
    start_from_inputs(expected.model, list(data.train_dataloader()))
    for mine, theirs in zip(switch_layers(run.model), switch_layers(expected.model), strict=True):
        for bits in (8, 4, 2):
            (a_RI, b_OR), (own_a_RI, own_b_OR) = mine.low_rank(bits), theirs.low_rank(bits)  # type: ignore[misc]
            torch.testing.assert_close((b_OR @ a_RI).norm(), (own_b_OR @ own_a_RI).norm(), rtol=0.02, atol=0)
    before = {name: value.clone() for name, value in run.state_dict().items() if "lora" in name}
    resumed = SwitchableModule(str(workshop.base), adapter_start="qera", rank=RANKS, lr=0.0)
    resumed = workshop.fit(SPNet(), tmp_path, 2, resumed, resume=True)
    for name, value in before.items():
        assert torch.equal(resumed.state_dict()[name], value)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_without_a_data_module_it_says_so(workshop: Workshop, tmp_path: Path) -> None:
    data = workshop.data()
    data.setup("fit")
    module = SwitchableModule(str(workshop.base), adapter_start="qera", rank=RANKS)
    trainer = Trainer(max_steps=1, limit_val_batches=0, logger=False, default_root_dir=tmp_path, accelerator="cpu")
    with pytest.raises(UserError, match="no data module: use loftq"):
        trainer.fit(module, train_dataloaders=list(data.train_dataloader()))


@pytest.mark.parametrize(("count", "told"), [(1, "1 batch"), (2, "2 batches")])
def test_batches_without_labels_are_no_start(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, told: str
) -> None:
    """Contexts that are cut before the answer, say."""

    def unlabelled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return counted({**batch, "labels": torch.full_like(batch["labels"], IGNORED)})

    monkeypatch.setattr("switchq.training.module.counted", unlabelled)
    module = workshop.module(adapter_start="qera", start_batches=count)
    with pytest.raises(UserError, match=f"adapter_start qera: nothing to learn of in {told}$"):
        workshop.fit(SPNet(), tmp_path, 1, module)
