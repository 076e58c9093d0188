"""Rounders that look at a whole block: what its rounded linears do together to its output decides.

The block is given what the rounded blocks before it give out, and is to give what the float model has there:

    E = mean over real tokens of |block(x~; W~) - block(x; W)|^2 / |x~|^2

with x the float model's input of the block and x~ the rounded model's. Many models have a block that makes the first
token of a text a hundred times longer than the others, until one far behind it takes that back (Sun et al. 2024,
arXiv:2402.17762). What rounding that block does to this token would be nearly all of a plain mean in every block
between the two, which can do nothing about it; in the length that a token comes in with, only its own block sees it.

One trains W~ (SignRound, BRECQ, OmniQuant's clipping), and the block's other parts stay. Inputs and wanted outputs of
one block are all that is kept. Blocks that are on the device together are rounded one after the other all the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from switchq.posttraining.ptq.rounder import Rounded, Rounder
from switchq.posttraining.ptq.site import Linear
from switchq.posttraining.ptq.statistics import Needs
from switchq.quant import Grid

LEAST = 1e-6
"""Added to a token's mean square before it divides, as in a norm: a token of zeros divides by something."""


@dataclass(frozen=True, eq=False)
class Ends:
    """A calibration batch at the two ends of a block.

    Attributes:
        input_BTI: x~, or x where everything is calibrated on the float model.
        wanted_BTI: the float model's output of the block.
        rest: what else the block's `forward` is called with, by position.
        options: and by name.
        real_N: flattened positions of real tokens.
    """

    input_BTI: Tensor
    wanted_BTI: Tensor
    rest: tuple[Any, ...]
    options: dict[str, Any]
    real_N: Tensor


class Block:
    """A block whose linears can be tried with other weights.

    Args:
        module: the block; its parameters stay as they are.
        linears: those to be rounded.
        batches: at least one; what they hold may wait on another device than the block's.
    """

    def __init__(self, module: nn.Module, linears: Sequence[Linear], batches: Sequence[Ends]) -> None:
        self.module, self.linears, self.batches = module, tuple(linears), batches
        self.weights = [linear.coded_OI for linear in linears]
        names = {inner: name for name, inner in module.named_modules()}
        self._names = [f"{names[linear.module]}.weight" for linear in linears]
        self._device = self.weights[0].device

    def error(self, batch: Ends, weights: Sequence[Tensor]) -> Tensor:
        """E of one batch, a float32 scalar, differentiable in the weights.

        Args:
            batch: one of `batches`.
            weights: what stands in place of `weights`, (O, I) each, float32.
        """
        tried = {
            name: linear.stored(weight_OI)
            for name, linear, weight_OI in zip(self._names, self.linears, weights, strict=True)
        }
        input_BTI, wanted_BTI = batch.input_BTI.to(self._device), batch.wanted_BTI.to(self._device)
        with _fast(self._device):
            output_BTI = functional_call(self.module, tried, (input_BTI, *batch.rest), batch.options)
        output_NI, wanted_NI, input_NI = (
            one_BTI.flatten(0, -2).index_select(0, batch.real_N).float()
            for one_BTI in (output_BTI, wanted_BTI, input_BTI)
        )
        return ((output_NI - wanted_NI).square().mean(-1) / (input_NI.square().mean(-1) + LEAST)).mean()


@contextmanager
def _fast(device: torch.device) -> Iterator[None]:
    """On a GPU products are of bfloat16, and attention is the one whose gradient is the same each time."""
    if device.type != "cuda":
        yield
        return
    with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass(frozen=True)
class BlockRounder(Rounder, ABC):
    """Base class of rounders that look at all linears of a block at once."""

    def needs(self) -> Needs:
        """The ends of the block."""
        return Needs(ends=True)

    @abstractmethod
    def round_block(self, block: Block, grid: Grid, bits: int, seed: int = 0) -> list[Rounded]:
        """Round all linears of a block.

        Args:
            block: its linears, which are left as they are, and its batches.
            grid: where to round to.
            bits: the width of a code.
            seed: of whatever is drawn.

        Returns:
            The codes of each of `block.weights`.

        Raises:
            UserError: a group size that does not divide a row, a grid that this rounder cannot use.
        """
