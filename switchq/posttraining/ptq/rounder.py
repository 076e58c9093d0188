"""What a rounder is: it picks codes, knowing the grid, the width and the statistics it declared.

Most look at one weight at a time: a `LinearRounder`. One that looks at all linears of a block is a `BlockRounder`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.quant import Grid, Params


@dataclass(frozen=True, eq=False)
class Rounded:
    """A weight in codes.

    Attributes:
        codes_OI: int16, at most 2^bits different ones a group.
        params: what the grid decodes them with, (O, G) each.
        grid: the grid.
        bits: the width of a code.
        overhead: bits stored beside the codes; None: what the grid says.
    """

    codes_OI: Tensor
    params: Params
    grid: Grid
    bits: int
    overhead: int | None = None

    def weight(self) -> Tensor:
        """The weight (O, I), float32, that the codes stand for."""
        return self.grid.decode(self.codes_OI, self.params)

    @property
    def overhead_bits(self) -> int:
        """Bits of scales, zero points and the like."""
        outputs, inputs = self.codes_OI.shape
        return self.grid.overhead_bits((outputs, inputs), self.bits) if self.overhead is None else self.overhead

    def split(self, outputs: Sequence[int]) -> list["Rounded"]:
        """The same as so many weights on top of each other, with so many rows each.

        Raises:
            ValueError: an `overhead` of its own, which nobody can share out.
        """
        if self.overhead is not None:
            raise ValueError("bits stored beside the codes of a whole weight cannot be split")
        rows = list(outputs)
        params = zip(*(value.split(rows) for value in self.params.values()), strict=True)
        return [
            Rounded(codes_OI, dict(zip(self.params, own, strict=True)), self.grid, self.bits)
            for codes_OI, own in zip(self.codes_OI.split(rows), params, strict=True)
        ]


@dataclass(frozen=True)
class Rounder:
    """Base class of all rounders: a frozen dataclass whose fields are its hyper-parameters."""

    whole_zeros: ClassVar[bool] = True
    """Whether zero points, where a grid has them, stay integers."""

    def needs(self) -> Needs:
        """The statistics of a linear's input that it reads."""
        return Needs()

    def in_search(self) -> "LinearRounder":
        """The rounder that a transform's search tries its candidates with: plain rounding, unless said otherwise."""
        from switchq.posttraining.ptq.rounders.nearest import Nearest

        return Nearest()


@dataclass(frozen=True)
class LinearRounder(Rounder, ABC):
    """Base class of rounders that look at one weight at a time."""

    sequential: ClassVar[bool] = False
    """Whether the statistics of a block's later linears are to be gathered after its earlier ones are rounded."""

    row_by_row: ClassVar[bool] = False
    """Whether a row's codes depend on that row and the statistics alone: linears that read one input (query, key and
    value) are then rounded as one weight."""

    @abstractmethod
    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        """Round a weight.

        Args:
            weight_OI: float32, on any device; it is left as it is.
            grid: where to round to.
            bits: the width of a code.
            statistics: of the input that the rounded weight will be multiplied with.
            seed: of whatever is drawn.

        Raises:
            UserError: a group size that does not divide the row, a grid that this rounder cannot use.
        """
