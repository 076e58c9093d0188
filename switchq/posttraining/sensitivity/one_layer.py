"""One layer at a width of its own, for as long as it takes to look at it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from switchq.nn import SwitchLayer


@contextmanager
def layer_at(layer: SwitchLayer, bits: int, adapters: bool = True) -> Iterator[Tensor]:
    """Run one layer of a model at `bits`, with that width's adapter (and norm), inside a `with` block.

    A rounded weight that the layer did not keep before is dropped again after it. A measurement that visits every layer
    therefore never holds more than one such weight, at the price of rounding once a visit.

    Args:
        layer: the layer; all others stay as they are.
        bits: its width inside the block.
        adapters: whether its adapter takes part inside the block.

    Yields:
        Its weight (O, I) at that width.
    """
    linear, lora, norm = layer.linear, layer.lora, layer.norm
    kept, width = set(linear._versions), linear.bits
    active = None if lora is None else lora.__dict__.get("_active_adapter")
    of_width = None if norm is None else norm.name
    try:
        layer.switch(bits, adapters)
        yield linear.effective_weight()
    finally:
        linear.__dict__["bits"] = width
        if lora is not None:
            lora.__dict__["_active_adapter"] = active
        if norm is not None:
            norm.name = of_width
        for extra in set(linear._versions) - kept:
            linear.forget(extra)
