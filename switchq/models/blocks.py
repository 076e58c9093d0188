"""The blocks of a model, run one by one from outside: each `forward` is wrapped for the length of a `with` block.

The model's own code still builds masks and positions and passes them on, so this works for every architecture whose
blocks take the hidden states (B, T, I) as their first argument and return them.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from switchq.models.load import architecture_of, blocks_of
from switchq.models.logits import hidden_states
from switchq.nn import SwitchLayer

Forward = Callable[..., Tensor]

Wrap = Callable[[int, Forward], Forward]
"""From the index of a block and its own `forward` to the `forward` that runs in its place."""


def block_index(model: PreTrainedModel, layer: SwitchLayer) -> int | None:
    """The block that a quantised layer sits in; None for one outside of the blocks, such as the head."""
    found = re.match(re.escape(architecture_of(model.config).blocks) + r"\.(\d+)\.", layer.name)
    return int(found[1]) if found else None


@contextmanager
def wrapped_blocks(model: PreTrainedModel, wrap: Wrap) -> Iterator[None]:
    """Inside, each block runs `wrap(index, its own forward)`; after it, whatever happened, its own forward again."""
    blocks = blocks_of(model)
    before: list[Any] = [block.__dict__.get("forward") for block in blocks]
    try:
        for index, block in enumerate(blocks):
            block.__dict__["forward"] = wrap(index, block.forward)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = own


def resumed(
    model: PreTrainedModel, first: int, input_BTI: Tensor | None, last: int | None = None
) -> AbstractContextManager[None]:
    """Inside, a forward of the model runs only the blocks `first` to `last` (or to the end), and gives `first` that
    input; without one, it gets what it would get in a whole forward."""

    def wrap(index: int, own: Forward) -> Forward:
        if index < first or (last is not None and index > last):
            return lambda hidden_BTI, *rest, **options: hidden_BTI
        if index > first or input_BTI is None:
            return own
        return lambda hidden_BTI, *rest, **options: own(input_BTI, *rest, **options)

    return wrapped_blocks(model, wrap)


def run_blocks(
    model: PreTrainedModel, inputs: dict[str, Tensor], first: int, input_BTI: Tensor | None, last: int
) -> Tensor:
    """The output (B, T, I) of block `last` when `first` gets that input, as in `resumed`."""
    kept: list[Tensor] = []
    with resumed(model, first, input_BTI, last):
        hook = blocks_of(model)[last].register_forward_hook(lambda module, arguments, output: kept.append(output))
        try:
            hidden_states(model, inputs)
        finally:
            hook.remove()
    return kept[0]
