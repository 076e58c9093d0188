"""Models with a shared start, for `test_shared_start.py` and `test_taken_out.py`: what a test wants to know of one."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.nn import SwitchLayer, at, switch_layers

RANKS = {8: 2, 4: 2, 2: 3}
IDS = torch.arange(5, 45).view(2, 20)
STATES = [(bitmap, adapters) for bitmap in ("16", "8", "8/4", "3", "2") for adapters in (True, False)]


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {layer.name: layer.linear.weight.detach().clone() for layer in switch_layers(model)}


def product(layer: SwitchLayer, bits: int, adapters: bool) -> Tensor:
    a_RI, b_OR = layer.low_rank(bits, adapters)  # type: ignore[misc]
    return (b_OR @ a_RI).detach()


@torch.no_grad()
def kept(layer: SwitchLayer, bits: int) -> Tensor:
    """The weight (O, I) that a layer runs with."""
    return layer.linear.rounded(bits) + product(layer, bits, adapters=True)


@torch.no_grad()
def inputs_of(model: PreTrainedModel, tokens_BT: Tensor) -> dict[str, Tensor]:
    """What each layer reads (N, I) at full precision."""
    caught: dict[str, Tensor] = {}
    hooks = [
        layer.linear.register_forward_pre_hook(
            lambda _, arguments, name=layer.name: caught.__setitem__(name, arguments[0].flatten(0, -2))
        )
        for layer in switch_layers(model)
    ]
    logits(model, "16", False, tokens_BT)
    for hook in hooks:
        hook.remove()
    return caught


@torch.no_grad()
def logits(model: PreTrainedModel, bitmap: str, adapters: bool, ids: Tensor = IDS) -> Tensor:
    with at(model.eval(), bitmap, adapters=adapters):
        return model(ids).logits
