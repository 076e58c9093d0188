"""What is alive while a model is quantised: its weights and the inputs of one block, whatever the depth."""

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import load_methods, quantise
from switchq.posttraining.ptq.rounder import Rounded
from switchq.posttraining.ptq.site import Linear

from .conftest import SMALL


def alive(model: PreTrainedModel) -> int:
    """Bytes of all tensors that were made since the collector was frozen, the model's own left out."""
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in storages.items() if place not in own)


def most_alive(model: PreTrainedModel, batches: list[Batch], name: str, at_once: int = 1) -> int:
    """The most that is alive beside the model, seen at the last linear of each block."""
    seen: list[int] = []

    def on_layer(linear: Linear, rounded: Rounded) -> None:
        if linear.name.endswith("mlp.c_proj"):
            seen.append(alive(model))

    setting = replace(SMALL, blocks_at_once=at_once)
    gc.collect()
    gc.freeze()
    try:
        quantise(model, load_methods()[name], setting, batches, on_layer=on_layer, progress=False)
    finally:
        gc.unfreeze()
    return max(seen)


@pytest.mark.parametrize("name", ["gptq", "awq", "signround"])
def test_does_not_grow_with_the_depth(name: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    shallow, deep = (most_alive(tiny("gpt2", n_layer=depth), batches, name) for depth in (2, 8))
    inputs = sum(len(batch.real_N) for batch in batches) * 32 * 4
    assert shallow > inputs
    assert deep - shallow < 0.05 * shallow


def test_grows_with_the_blocks_that_are_calibrated_together(
    tiny: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    one, four = (most_alive(tiny("gpt2", n_layer=8), batches, "awq", at_once) for at_once in (1, 4))
    assert four > 2 * one
