"""What every quantised module shares: a full-precision weight, a grid, and the width that the weight runs at now.

A frozen weight gives the same rounded weight in every forward, so each width is rounded once and kept as a buffer; a
switch then only changes which tensor the next forward reads. A weight that is trained, or whose scales are, is rounded
anew in every forward that takes a gradient (straight-through), and outside of training only when it has changed. The
grid of a trained weight is fitted once, to the weight as it was pretrained: a checkpoint need not hold what can be
computed from the base.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.quant import Grid, Params
from switchq.quant.learned import learned_fake_quantize, learned_params

LOG_SCALE = "log_scale"
"""What the parameters of learned scales are called, before their width."""


class QuantWeight(nn.Module):
    """Mixin for a module with a `weight` of shape (O, I).

    Attributes:
        grid: where the weight is rounded to.
        bits: the width that the next forward uses; `switchq.bitmap.FULL` is the weight as it is.
        keeps_rounded: whether rounded weights are kept; see `round_in_forward`.
        is_taken_out: whether a part of the weight is left to adapters; see `take_out`.
    """

    weight: Tensor
    grid: Grid
    bits: int
    keeps_rounded: bool
    is_taken_out: bool
    _versions: dict[int, tuple[int, ...]]
    _fitted: dict[int, tuple[str, ...]]

    def _init_grid(self, grid: Grid) -> None:
        grid.groups(self.weight.shape[1])
        self.grid = grid
        self.bits = FULL
        self.keeps_rounded = True
        self.is_taken_out = False
        self._versions = {}
        self._fitted = {}

    def fix_grid(self, bits: int, learn_scales: bool) -> None:
        """Fit the grid of `bits` to the weight as it is now, for good; `learn_scales` makes its scales trainable.

        Raises:
            UserError: scales to be learned of a grid whose levels are not integers times the scale.
        """
        if learn_scales and not self.grid.integer_levels:
            raise UserError(f"the scales of {type(self.grid).__name__} cannot be learned: its levels are uneven")
        params = self.grid.fit(self.weight, bits)
        self._fitted[bits] = tuple(params)
        for name, value in params.items():
            self.register_buffer(_buffer(name, bits), value, persistent=False)
        if learn_scales:
            self.register_parameter(_buffer(LOG_SCALE, bits), nn.Parameter(torch.zeros_like(params["scale"])))

    @torch.no_grad()
    def take_out(self, low_OI: Tensor) -> None:
        """Round the weight less `low_OI` from now on, at every width; grids are fitted to what is left.

        Raises:
            RuntimeError: something was taken out before.
        """
        if self.is_taken_out:
            raise RuntimeError("a part of this weight was taken out before")
        self.is_taken_out = True
        self.weight.copy_(self.weight.float() - low_OI)
        for bits in tuple(self._versions):
            self.forget(bits)
        for bits in self._fitted:
            for name, value in self.grid.fit(self.weight, bits).items():
                cast(Tensor, self._buffers[_buffer(name, bits)]).copy_(value)

    def round_in_forward(self, widths: Iterable[int]) -> None:
        """From now on keep no rounded weight, but round anew in every forward; grids are fitted now, for good.

        For a weight that is whole only while its block runs, because it is spread over devices.
        """
        for bits in widths:
            if bits != FULL:
                if bits not in self._fitted:
                    self.fix_grid(bits, learn_scales=False)
                self.forget(bits)
        self.keeps_rounded = False

    def train_in_place(self, weight: bool, scales: bool) -> None:
        """Say what takes a gradient from now on; rounded weights that training would outdate are dropped."""
        for name, parameter in self.named_parameters(recurse=False):
            if name == "weight":
                parameter.requires_grad_(weight)
            elif is_scale(name):
                parameter.requires_grad_(scales)
        if weight or scales:
            for bits in tuple(self._versions):
                self.forget(bits)

    def round_weight(self, bits: int) -> Tensor:
        """The weight (O, I) rounded to `bits`, differentiable (straight-through) if the weight or its scales are."""
        log_scale_OG = self._log_scale(bits)
        if log_scale_OG is None:
            return self.grid.fake_quantize(self.weight, self._fit(bits), bits)
        return learned_fake_quantize(self.grid, self.weight, self._fit(bits), log_scale_OG, bits)

    @torch.no_grad()
    def params(self, bits: int) -> Params:
        """What the grid decodes codes of `bits` with, (O, G) each, learned scales taken in."""
        log_scale_OG = self._log_scale(bits)
        return self._fit(bits) if log_scale_OG is None else learned_params(self._fit(bits), log_scale_OG)

    def _fit(self, bits: int) -> Params:
        """The grid's parameters as fitted for good, or else to the weight as it is now."""
        fitted = self._fitted.get(bits)
        if fitted is None:
            return self.grid.fit(self.weight, bits)
        return {name: self._buffers[_buffer(name, bits)] for name in fitted}  # type: ignore[misc]

    @torch.inference_mode(False)
    @torch.no_grad()
    def prepare(self, bits: int) -> None:
        """Round the weight to `bits` and keep the result, unless that is done already.

        What is kept under `torch.inference_mode` is an ordinary tensor, which a later training step can read.
        """
        if bits != FULL and self._versions.get(bits) != self._state(bits):
            self.register_buffer(_buffer("weight", bits), self.round_weight(bits).detach(), persistent=False)
            self._versions[bits] = self._state(bits)

    def rounded(self, bits: int) -> Tensor:
        """The weight (O, I) rounded to `bits`, without a gradient; kept for the next time."""
        self.prepare(bits)
        return self._buffers[_buffer("weight", bits)]  # type: ignore[return-value]

    def forget(self, bits: int) -> None:
        """Drop the rounded weight of `bits`, if there is one."""
        self._versions.pop(bits, None)
        self._buffers.pop(_buffer("weight", bits), None)
        self._non_persistent_buffers_set.discard(_buffer("weight", bits))

    def is_prepared(self, bits: int) -> bool:
        """Whether a switch to `bits` needs no rounding; what is trained is rounded in the forward."""
        return (
            bits == FULL
            or not self.keeps_rounded
            or self._learns(bits)
            or self._versions.get(bits) == self._state(bits)
        )

    def effective_weight(self) -> Tensor:
        """The weight (O, I) at the current width."""
        bits = self.bits
        trainable = self._learns(bits)
        training = trainable and torch.is_grad_enabled()
        if training:
            self._versions = {}  # an optimiser step may follow, and fused optimisers do not raise the version
        if bits == FULL:
            return self.weight
        if training or not self.keeps_rounded:
            return self.round_weight(bits)
        if trainable or bits not in self._versions:
            return self.rounded(bits)
        return self._buffers[_buffer("weight", bits)]  # type: ignore[return-value]

    def _log_scale(self, bits: int) -> Tensor | None:
        return self._parameters.get(_buffer(LOG_SCALE, bits))

    def _learns(self, bits: int) -> bool:
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        return weight.requires_grad or _buffer(LOG_SCALE, bits) in self._parameters

    def _state(self, bits: int) -> tuple[int, ...]:
        """Changes whenever the rounded weight may have, but for what fused optimisers do."""
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        log_scale_OG = self._log_scale(bits)
        return (weight._version,) if log_scale_OG is None else (weight._version, log_scale_OG._version)


def _buffer(name: str, bits: int) -> str:
    return f"{name}_{bits}bit"


def is_scale(parameter: str) -> bool:
    """Whether the parameter of that dotted name holds learned scales."""
    return f".{LOG_SCALE}_" in f".{parameter}"
