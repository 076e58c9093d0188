"""Switching: `set_bitmap` gives every quantised layer its width and the adapter that belongs to it.

A switch writes two plain attributes per layer, the width and the list of active adapter names. It allocates no weights
and leaves every `requires_grad` alone (peft's own `set_adapter` would flip them); only a width outside the prepared
ones costs a rounding, once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from switchq.bitmap import FULL, Bitmap
from switchq.errors import UserError
from switchq.nn.adapters import SHARED, TAKEN, adapter_name
from switchq.nn.linear import QuantLinear
from switchq.nn.norm import SwitchedNorm
from switchq.nn.weight import QuantWeight


@dataclass(eq=False)
class SwitchLayer:
    """One entry of a bitmap.

    Attributes:
        name: the dotted name in the model as `transformers` builds it.
        linear: the quantised module.
        lora: the peft layer around it, or None.
        widths: the trained widths, narrowest first.
        norm: the norm that goes with this layer's width, if widths have norms of their own.
    """

    name: str
    linear: QuantWeight
    lora: LoraLayer | None = None
    widths: tuple[int, ...] = ()
    norm: SwitchedNorm | None = None
    _adapters: dict[tuple[int, bool], list[str]] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """The current width."""
        return self.linear.bits

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's outputs and inputs, (O, I)."""
        outputs, inputs = self.linear.weight.shape
        return outputs, inputs

    @property
    def size(self) -> int:
        """Weights."""
        return self.shape[0] * self.shape[1]

    def low_rank(self, bits: int, adapters: bool = True) -> tuple[Tensor, Tensor] | None:
        """A (R, I) and B (O, R) whose product is what `adapters_for` add to the weight; None without any."""
        lora = self.lora
        names = self.adapters_for(bits, adapters)
        if lora is None or not names:
            return None
        factors = [[cast(nn.Linear, part[name]).weight for name in names] for part in (lora.lora_A, lora.lora_B)]
        scaled = [b_OR * lora.scaling[name] for name, b_OR in zip(names, factors[1])]
        return torch.cat(factors[0]), torch.cat(scaled, dim=1)

    def adapter_weights(self, bits: int, adapters: bool = True) -> int:
        """Weights of `adapters_for`."""
        factors = self.low_rank(bits, adapters)
        return 0 if factors is None else sum(factor.numel() for factor in factors)

    def adapters_for(self, bits: int, adapters: bool = True) -> list[str]:
        """The adapters that run at `bits`: the shared one, and that of `trained_width`; each if it is there.

        Without adapters it is what was taken out of the weight before it was rounded, if something was.
        """
        if self.lora is None or not self.widths:
            return []
        wanted = (SHARED, adapter_name(self.trained_width(bits))) if adapters else (TAKEN,)
        return [name for name in wanted if name in self.lora.lora_A]

    def trained_width(self, bits: int) -> int:
        """Whose adapter and norm run at `bits`: its own, else the next wider trained width's, else the widest's."""
        return next((width for width in self.widths if width >= bits), self.widths[-1])

    def switch(self, bits: int, adapters: bool) -> None:
        """Run at `bits` from the next forward on."""
        linear = self.linear
        if not linear.is_prepared(bits):
            linear.prepare(bits)
        # Straight into __dict__: nn.Module's own __setattr__ costs more than all the rest of a switch.
        linear.__dict__["bits"] = bits
        if self.lora is not None:
            names = self._adapters.get((bits, adapters))
            if names is None:
                names = self._adapters[bits, adapters] = self.adapters_for(bits, adapters)
            self.lora.__dict__["_active_adapter"] = names
            self.lora.__dict__.pop("forward", None)
        if self.norm is not None:
            self.norm.__dict__["name"] = adapter_name(self.trained_width(bits)) if adapters else None

    def multiply_by(self, weight_OI: Tensor | None) -> None:
        """Run as one product with `weight_OI` and the bias, instead of base and adapters, until the next switch.

        Args:
            weight_OI: with the adapters in it (`switchq.nn.merged`); None ends it.
        """
        assert self.lora is not None, "there are no adapters to be merged"
        if weight_OI is None:
            self.lora.__dict__.pop("forward", None)
        else:
            bias_O = cast(Tensor | None, self.linear.bias)
            self.lora.__dict__["forward"] = partial(F.linear, weight=weight_OI, bias=bias_O)


@dataclass(eq=False)
class Switch:
    """What a switchable model carries: its layers in model order, and the state they are in.

    Attributes:
        layers: one entry of a bitmap each.
        bitmap: their widths now.
        adapters: whether the adapters take part now.
        widths: the only widths that there are, where the weights themselves are not.
    """

    layers: tuple[SwitchLayer, ...]
    bitmap: Bitmap
    adapters: bool = True
    widths: frozenset[int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, in model order."""
        return tuple(layer.name for layer in self.layers)


def attach_switch(model: nn.Module, widths: Sequence[int] = (), norms: Mapping[str, SwitchedNorm] = {}) -> Switch:
    """Find the quantised layers of `model`, and set all of them to full precision.

    Args:
        model: a model with quantised layers.
        widths: the trained widths, which say what adapter runs where.
        norms: name of a layer -> the norm that goes with its width.

    Raises:
        UserError: if there are none.
    """
    layers = []
    for name, module in model.named_modules():
        parent = name.removesuffix(".base_layer")
        if isinstance(module, QuantLinear) or (isinstance(module, QuantWeight) and module._source[0] is module):  # type: ignore[index]
            lora = model.get_submodule(parent) if parent != name else None
            layers.append(SwitchLayer(parent, module, lora, tuple(sorted(widths)), norms.get(parent)))  # type: ignore[arg-type]
    if not layers:
        raise UserError("this model has no quantised layers: make it switchable first")
    switch = Switch(tuple(layers), Bitmap.stripe([FULL], len(layers)))
    model.__dict__["_switch"] = switch
    set_bitmap(model, switch.bitmap)
    return switch


def get_switch(model: nn.Module) -> Switch:
    """The switch of a switchable model.

    Raises:
        UserError: if the model is not switchable.
    """
    switch = model.__dict__.get("_switch")
    if switch is None:
        raise UserError("this model is not switchable: call make_switchable on it first")
    return switch


def switch_layers(model: nn.Module) -> tuple[SwitchLayer, ...]:
    """The quantised layers, in model order."""
    return get_switch(model).layers


def set_bitmap(model: nn.Module, bitmap: Bitmap | str | int | Sequence[int], adapters: bool = True) -> Bitmap:
    """Run `model` at `bitmap` from the next forward on.

    Args:
        model: a switchable model.
        bitmap: a `Bitmap`, or anything that `Bitmap.parse` reads.
        adapters: whether the LoRA adapters take part.

    Returns:
        The bitmap set.

    Raises:
        UserError: if the bitmap does not fit the model.
    """
    switch = get_switch(model)
    if not isinstance(bitmap, Bitmap) or len(bitmap) != len(switch.layers):
        written = bitmap if isinstance(bitmap, str | int) else Bitmap(bitmap)
        bitmap = Bitmap.parse(written, switch.names)
    if switch.widths is not None:
        bitmap.check_held(switch.widths)
    for layer, bits in zip(switch.layers, bitmap):
        layer.switch(bits, adapters)
    switch.bitmap, switch.adapters = bitmap, adapters
    return bitmap


@contextmanager
def at(model: nn.Module, bitmap: Bitmap | str | int | Sequence[int], adapters: bool = True) -> Iterator[Bitmap]:
    """`set_bitmap` for the length of a `with` block; whatever was set before is set again after it."""
    switch = get_switch(model)
    before = switch.bitmap, switch.adapters
    try:
        yield set_bitmap(model, bitmap, adapters)
    finally:
        set_bitmap(model, *before)
