"""The adapters' own forward against peft's, forward and backward."""

import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from switchq.nn.linear import QuantLinear
from switchq.nn.lora import SwitchedLora
from switchq.quant import Symmetric


def pair(dtype: torch.dtype, dropout: float = 0.0) -> tuple[SwitchedLora, Linear]:
    """Our layer and peft's around the same weights, with two adapters, the second one active."""
    weight, bias = torch.randn(6, 5), torch.randn(6)
    made: list[Any] = []
    for own in (True, False):
        linear = QuantLinear(nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype)), Symmetric())
        model = nn.ModuleDict({"linear": linear})
        for name, rank in (("bits_8", 2), ("bits_4", 3)):
            config = LoraConfig(r=rank, lora_alpha=3, lora_dropout=dropout, target_modules=["linear"])
            if own:
                config._register_custom_module({QuantLinear: SwitchedLora})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inject_adapter_in_model(config, model, adapter_name=name)
        layer: Any = model["linear"]
        torch.manual_seed(1)
        for parameter in (one.weight for part in (layer.lora_A, layer.lora_B) for one in part.values()):
            parameter.data = torch.randn(parameter.shape)
            parameter.requires_grad_(True)
        layer.__dict__["_active_adapter"] = ["bits_4"]
        layer.base_layer.bits = 4
        made.append(layer)
    assert type(made[0]) is SwitchedLora
    assert type(made[1]) is Linear
    return made[0], made[1]


def outcome(layer: nn.Module, x: Tensor, autocast: bool) -> list[Tensor]:
    """Output, gradient of the input, and of both factors of the active adapter."""
    x = x.clone().requires_grad_()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        y = layer(x)
    y.float().square().sum().backward()
    a, b = layer.lora_A["bits_4"].weight, layer.lora_B["bits_4"].weight  # type: ignore[index, union-attr]
    assert layer.lora_A["bits_8"].weight.grad is None  # type: ignore[index, union-attr]
    return [y, x.grad, a.grad, b.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5)], ids=["NI", "BTI"])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [
        pytest.param(torch.float32, False, 1e-5, id="float32"),
        pytest.param(torch.float32, True, 3e-2, id="autocast"),
        pytest.param(torch.bfloat16, True, 3e-2, id="bfloat16 base, autocast"),
        pytest.param(torch.bfloat16, False, 3e-2, id="bfloat16 base"),
    ],
)
def test_equals_pefts_forward(shape: tuple[int, ...], dtype: torch.dtype, autocast: bool, tolerance: float) -> None:
    ours, theirs = pair(dtype)
    x = torch.randn(shape, dtype=dtype)
    for mine, other in zip(outcome(ours, x, autocast), outcome(theirs, x, autocast), strict=True):
        assert mine.dtype == other.dtype
        scale = float(other.detach().float().abs().max())
        torch.testing.assert_close(mine.float() / scale, other.float() / scale, atol=tolerance, rtol=0)


def test_drops_the_same_units_as_peft() -> None:
    ours, theirs = pair(torch.float32, dropout=0.5)
    x = torch.randn(2, 7, 5)
    for mine, other in zip(outcome(ours, x, False), outcome(theirs, x, False), strict=True):
        torch.testing.assert_close(mine, other)
    torch.manual_seed(3)
    assert not torch.equal(ours(x), ours(x))


def test_without_an_active_adapter_only_the_base_runs() -> None:
    ours, _ = pair(torch.float32)
    x = torch.randn(2, 7, 5)
    ours.__dict__["_active_adapter"] = []
    assert torch.equal(ours(x), ours.base_layer(x))


def test_an_adapter_that_is_zero_changes_no_bit() -> None:
    ours, _ = pair(torch.float32)
    ours.lora_B["bits_4"].weight.data.zero_()
    x = torch.randn(2, 7, 5)
    assert torch.equal(ours(x), ours.base_layer(x))


def test_two_active_adapters_add_up_as_in_peft() -> None:
    ours, theirs = pair(torch.float32)
    for layer in (ours, theirs):
        layer.__dict__["_active_adapter"] = ["bits_8", "bits_4"]
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours.scaling["bits_8"] != ours.scaling["bits_4"]
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        torch.testing.assert_close(mine.grad, other.grad)
    assert all(part["bits_8"].weight.grad.any() for part in (ours.lora_A, ours.lora_B))
    theirs.__dict__["_active_adapter"] = ["bits_4"]
    assert not torch.allclose(ours(x), theirs(x))
