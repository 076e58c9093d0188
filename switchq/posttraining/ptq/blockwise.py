"""Rounders that look at a whole block: what its rounded linears do together to its output decides.

The block is given what the rounded blocks before it give out, and is to give what the float model has there; how far
off it is, is E of `switchq.models.block_ends`. One trains the rounded weights (SignRound, BRECQ, OmniQuant's clipping),
and the block's other parts stay. Inputs and wanted outputs of one block are all that is kept. Blocks that are on the
device together are rounded one after the other all the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from switchq.models.block_ends import Ends
from switchq.posttraining.ptq.rounder import Rounded, Rounder
from switchq.posttraining.ptq.site import Linear
from switchq.posttraining.ptq.statistics import Needs
from switchq.quant import Grid


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

        def run(*arguments: Any, **options: Any) -> Tensor:
            output: Tensor = functional_call(self.module, tried, arguments, options)
            return output

        return batch.error(run, self._device)


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
