"""Switchable models whose adapters do something, and two calibration batches with padding in one of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from switchq.bitmap import FULL, Bitmap
from switchq.data.batches import IGNORED, TrainingCollator
from switchq.models import make_switchable
from switchq.nn import get_switch
from switchq.posttraining.calibration import Batch

BITS = (8, 4, 2)

MakeSwitchable = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def switchable(tiny: Callable[..., PreTrainedModel]) -> MakeSwitchable:
    """`switchable("llama", extra=[...], n_layer=8)`: adapters at 8, 4 and 2 bits, all different from zero."""

    def make(
        architecture: str = "gpt2",
        options: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> PreTrainedModel:
        settings: dict[str, Any] = {"rank": {8: 2, 4: 3, 2: 4}, **(options or {})}
        model = make_switchable(tiny(architecture, **config).to(dtype), **settings)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.05)
        return model

    return make


@pytest.fixture(scope="session")
def batches() -> list[Batch]:
    """Five samples of different lengths, the last few tokens of each scored, in batches of three and two."""
    generator = torch.Generator().manual_seed(3)
    examples = []
    for length, scored in ((14, 3), (11, 5), (9, 2), (13, 4), (6, 1)):
        ids = torch.randint(2, 97, (length,), generator=generator).tolist()
        examples.append({"input_ids": ids, "labels": [IGNORED] * (length - scored) + ids[-scored:]})
    collate = TrainingCollator(pad_id=5)
    return [Batch.of(collate(examples[:3])), Batch.of(collate(examples[3:]))]


def only(model: PreTrainedModel, index: int, bits: int) -> Bitmap:
    """The bitmap that quantises one layer."""
    widths = [FULL] * len(get_switch(model).names)
    widths[index] = bits
    return Bitmap(widths)


def state(model: PreTrainedModel) -> dict[str, Any]:
    """All that a measurement could leave behind on a model."""
    modules = dict(model.named_modules())
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "switch": (get_switch(model).bitmap, get_switch(model).adapters),
        "training": {name: module.training for name, module in modules.items()},
        "bits": {name: module.__dict__.get("bits") for name, module in modules.items()},
        "active": {name: module.__dict__.get("_active_adapter") for name, module in modules.items()},
        "attributes": {name: sorted(module.__dict__) for name, module in modules.items()},
        "buffers": {name: sorted(module._buffers) for name, module in modules.items()},
        "versions": {name: dict(getattr(module, "_versions", {})) for name, module in modules.items()},
        "hooks": {
            name: [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
            for name, module in modules.items()
        },
        "tensors": {name: (t.data_ptr(), t._version, t.requires_grad, t.grad is None) for name, t in tensors},
        "random": torch.get_rng_state().sum().item(),
    }
