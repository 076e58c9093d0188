"""Using a model without leaving a trace on it: its training flags and generation settings are as before afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

COLDEST = 1e-30
"""The lowest temperature to sample at, where the likeliest token is taken: logits divided by less overflow float32."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; each module's own training flag again after it."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def own_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what its config leaves open from the model's own; within this context that is `config`, too."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before
