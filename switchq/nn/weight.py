"""What every quantised module shares: a full-precision weight, a grid, and the width that the weight runs at now.

A frozen weight gives the same rounded weight in every forward, so each width is rounded once and kept as a buffer; a
switch then only changes which tensor the next forward reads. A trainable weight is rounded anew in every forward that
takes a gradient (straight-through), and outside of training only when it has changed.
"""

import torch
from torch import Tensor, nn

from switchq.bitmap import FULL
from switchq.quant import Grid


class QuantWeight(nn.Module):
    """Mixin for a module with a `weight` of shape (O, I).

    Attributes:
        grid: where the weight is rounded to.
        bits: the width that the next forward uses; `switchq.bitmap.FULL` is the weight as it is.
    """

    weight: Tensor
    grid: Grid
    bits: int
    _versions: dict[int, int]

    def _init_grid(self, grid: Grid) -> None:
        grid.groups(self.weight.shape[1])
        self.grid = grid
        self.bits = FULL
        self._versions = {}

    def round_weight(self, bits: int) -> Tensor:
        """The weight (O, I) rounded to `bits`, differentiable (straight-through) if the weight is."""
        return self.grid.fake_quantize(self.weight, self.grid.fit(self.weight, bits), bits)

    @torch.inference_mode(False)
    @torch.no_grad()
    def prepare(self, bits: int) -> None:
        """Round the weight to `bits` and keep the result, unless that is done already.

        What is kept under `torch.inference_mode` is an ordinary tensor, which a later training step can read.
        """
        if bits != FULL and self._versions.get(bits) != self.weight._version:
            self.register_buffer(_buffer(bits), self.round_weight(bits).detach(), persistent=False)
            self._versions[bits] = self.weight._version

    def forget(self, bits: int) -> None:
        """Drop the rounded weight of `bits`, if there is one."""
        self._versions.pop(bits, None)
        self._buffers.pop(_buffer(bits), None)
        self._non_persistent_buffers_set.discard(_buffer(bits))

    def is_prepared(self, bits: int) -> bool:
        """Whether a switch to `bits` needs no rounding; a trainable weight is rounded in the forward."""
        if bits == FULL:
            return True
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        return weight.requires_grad or self._versions.get(bits) == weight._version

    def effective_weight(self) -> Tensor:
        """The weight (O, I) at the current width."""
        bits = self.bits
        if bits == FULL:
            return self.weight
        trainable = self.weight.requires_grad
        if trainable and torch.is_grad_enabled():
            self._versions = {}  # an optimiser step may follow, and fused optimisers do not raise the version
            return self.round_weight(bits)
        if trainable or bits not in self._versions:
            self.prepare(bits)
        return self._buffers[_buffer(bits)]  # type: ignore[return-value]


def _buffer(bits: int) -> str:
    return f"weight_{bits}bit"
