"""One product instead of three: the adapters of a model added to its weights, for as long as these are only read.

    y = W x + s B A x  =  (W + s B A) x

A small model spends its time on starting kernels, and a layer with adapters starts several times as many as one
without. Whoever runs many forwards at one bitmap, as decoding does, gains most of that back for one addition a layer.
The two differ by rounding errors of the products, nothing else, as long as the sum is kept in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from switchq.nn.switch import SwitchLayer, get_switch


@torch.no_grad()
def merged_weight(layer: SwitchLayer, adapters: bool = True) -> Tensor:
    """The weight (O, I), float32, that a layer multiplies with, adapters added, or what runs without them."""
    weight_OI, factors = layer.linear.effective_weight().float(), layer.low_rank(layer.bits, adapters)
    if factors is None:
        return weight_OI
    a_RI, b_OR = factors
    return torch.addmm(weight_OI, b_OR, a_RI)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Run the forwards inside with one product a layer, at the bitmap that `model` has; without gradients.

    A layer that is switched inside runs its adapters apart again. Layers whose weights are not float32, or are whole
    only while they run, are left as they are.
    """
    switch = get_switch(model)
    layers = [layer for layer in switch.layers if _can_merge(layer, switch.adapters)]
    try:
        for layer in layers:
            layer.multiply_by(merged_weight(layer, switch.adapters))
        yield
    finally:
        for layer in layers:
            layer.multiply_by(None)


def _can_merge(layer: SwitchLayer, adapters: bool) -> bool:
    names, linear = layer.adapters_for(layer.bits, adapters), layer.linear
    return bool(names) and linear.keeps_rounded and linear.weight.dtype == torch.float32
