"""Wrapping blocks and switching single layers: what runs inside, and that nothing stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from switchq.models import blocks_of
from switchq.models.blocks import Forward, block_index, wrapped_blocks
from switchq.nn import switch_layers
from switchq.posttraining.sensitivity.one_layer import layer_at

from .conftest import MakeSwitchable, state


def test_layers_know_their_block(switchable: MakeSwitchable, architecture: str) -> None:
    model = switchable(architecture, {"extra": ["head", "embeddings"]} if architecture != "opt" else {})
    indices = [block_index(model, layer) for layer in switch_layers(model)]
    assert set(indices) - {None} == set(range(len(blocks_of(model))))
    for layer, index in zip(switch_layers(model), indices):
        inside = [any(module is layer.linear for module in block.modules()) for block in blocks_of(model)]
        assert inside == [place == index for place in range(len(inside))]


def pass_by(index: int, own: Forward) -> Forward:
    return lambda hidden_BTI, *rest, **options: hidden_BTI


def test_blocks_that_are_passed_by(switchable: MakeSwitchable, architecture: str, tokens_BT: Tensor) -> None:
    model = switchable(architecture)
    before, trace = model(tokens_BT).logits, state(model)
    seen: list[Any] = []
    hooks = [
        block.register_forward_hook(lambda module, arguments, output: seen.append(output)) for block in blocks_of(model)
    ]
    with wrapped_blocks(model, pass_by):
        model(tokens_BT)
    for hook in hooks:
        hook.remove()
    assert torch.equal(seen[0], seen[1])
    assert state(model) == trace
    assert torch.equal(model(tokens_BT).logits, before)


def test_a_forward_that_was_set_before_is_set_again(switchable: MakeSwitchable) -> None:
    model = switchable()
    mine: Callable[..., Any] = lambda *rest, **options: None  # noqa: E731
    blocks_of(model)[1].forward = mine  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), wrapped_blocks(model, pass_by):
        raise ZeroDivisionError
    assert blocks_of(model)[1].forward is mine
    assert "forward" not in vars(blocks_of(model)[0])


@pytest.mark.parametrize("bits", [16, 8, 3], ids=["full", "prepared", "not prepared"])
def test_one_layer_at_a_width(bits: int, switchable: MakeSwitchable) -> None:
    model = switchable()
    layer, before = switch_layers(model)[2], state(model)
    with layer_at(layer, bits) as weight_OI:
        assert layer.bits == bits
        assert torch.equal(weight_OI, layer.linear.weight if bits == 16 else layer.linear.round_weight(bits))
        assert layer.lora is not None
        assert layer.lora.active_adapters == layer.adapters_for(bits)
        assert {other.bits for other in switch_layers(model) if other is not layer} == {16}
    assert state(model) == before
