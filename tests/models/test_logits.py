from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.models import logits_at, make_switchable
from switchq.models.logits import logits_and_states_at
from switchq.nn import set_bitmap

BuildModel = Callable[..., PreTrainedModel]


@pytest.fixture
def mask_BT(tokens_BT: Tensor) -> Tensor:
    """True at some positions of two rows, and at none of the third."""
    mask_BT = torch.rand(tokens_BT.shape) < 0.4
    mask_BT[1] = False
    assert 0 < int(mask_BT.sum()) < mask_BT.numel()
    return mask_BT


@pytest.mark.parametrize("switchable", [False, True], ids=["plain", "switchable"])
@torch.no_grad()
def test_equal_those_of_the_model(
    tiny: BuildModel, architecture: str, tokens_BT: Tensor, mask_BT: Tensor, switchable: bool
) -> None:
    model = tiny(architecture)
    if switchable:
        set_bitmap(make_switchable(model), "4/2")
    padding_BT = torch.ones_like(tokens_BT)
    padding_BT[2, 8:] = 0
    inputs = {"input_ids": tokens_BT, "attention_mask": padding_BT}
    expected = model(**inputs).logits[mask_BT]
    actual = logits_at(model, inputs, mask_BT)
    assert actual.shape == (int(mask_BT.sum()), 97)
    torch.testing.assert_close(actual, expected)


@torch.no_grad()
def test_states_come_with_the_logits(tiny: BuildModel, architecture: str, tokens_BT: Tensor, mask_BT: Tensor) -> None:
    model = tiny(architecture)
    logits_NV, states = logits_and_states_at(model, {"input_ids": tokens_BT}, mask_BT.flatten().nonzero().squeeze(-1))
    assert torch.equal(logits_NV, logits_at(model, {"input_ids": tokens_BT}, mask_BT))
    assert len(states) == 2
    torch.testing.assert_close(logits_NV, model.get_output_embeddings()(states[-1]))
    expected = model(tokens_BT, output_hidden_states=True).hidden_states[1]
    assert torch.equal(states[0], expected[mask_BT])


def test_gradient_reaches_the_adapters(tiny: BuildModel, architecture: str, tokens_BT: Tensor, mask_BT: Tensor) -> None:
    model = make_switchable(tiny(architecture))
    set_bitmap(model, 2)
    logits_at(model, {"input_ids": tokens_BT}, mask_BT).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "lora_B.bits_2" in name}
    assert gradients
    assert all(gradient is not None and (gradient != 0).any() for gradient in gradients.values())
