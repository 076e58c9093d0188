"""Adapters added to the weights, against adapters that run beside them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.models import make_switchable
from switchq.nn import at, set_bitmap
from switchq.nn.lora import SwitchedLora
from switchq.nn.merged import merged

BuildModel = Callable[..., PreTrainedModel]

MIXED = [8, 4, 2, 3, 5, 6, 7, 16]


@pytest.fixture
def model(tiny_gpt2: BuildModel) -> PreTrainedModel:
    """GPT-2 with a shared adapter and three of widths that all do something."""
    model = make_switchable(tiny_gpt2(), rank={8: 2, 4: 3, 2: 4}, shared_rank=2).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def logits(model: PreTrainedModel, tokens_BT: Tensor) -> Tensor:
    return model(tokens_BT).logits


def products(model: PreTrainedModel, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many layers ran their adapters apart."""
    calls = []
    with monkeypatch.context() as patch:
        forward = SwitchedLora.forward
        patch.setattr(SwitchedLora, "forward", lambda self, x: (calls.append(self), forward(self, x))[1])
        logits(model, tokens_BT)
    return len(calls)


@pytest.mark.parametrize("bitmap", [8, 2, 16, MIXED], ids=str)
def test_the_same_logits(model: PreTrainedModel, tokens_BT: Tensor, bitmap: int | list[int]) -> None:
    set_bitmap(model, bitmap)
    apart = logits(model, tokens_BT)
    with at(model, bitmap, adapters=False):
        bare = logits(model, tokens_BT)
        with merged(model):
            torch.testing.assert_close(logits(model, tokens_BT), bare, atol=0, rtol=0)
    assert (apart - bare).abs().max() > 1e-3
    with merged(model):
        torch.testing.assert_close(logits(model, tokens_BT), apart, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(model, tokens_BT), apart, atol=0, rtol=0)


def test_one_product_a_layer_until_a_switch(
    model: PreTrainedModel, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_bitmap(model, 4)
    with at(model, 2):
        narrow = logits(model, tokens_BT)
    with merged(model):
        assert products(model, tokens_BT, monkeypatch) == 0
        with at(model, 2):
            assert products(model, tokens_BT, monkeypatch) == 8
            torch.testing.assert_close(logits(model, tokens_BT), narrow, atol=0, rtol=0)
    assert products(model, tokens_BT, monkeypatch) == 8


def test_a_weight_that_is_not_float32_stays_apart(
    tiny_gpt2: BuildModel, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum would lose in bfloat16 what the adapter adds."""
    model = make_switchable(tiny_gpt2().bfloat16()).eval()
    set_bitmap(model, 4)
    with merged(model):
        assert products(model, tokens_BT, monkeypatch) == 8


def test_a_failure_inside_leaves_no_trace(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    set_bitmap(model, 4)
    before = logits(model, tokens_BT)
    with pytest.raises(RuntimeError, match="inside"), merged(model):
        raise RuntimeError("inside")
    torch.testing.assert_close(logits(model, tokens_BT), before, atol=0, rtol=0)
