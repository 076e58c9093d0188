"""Grids: the sets of values that a weight can be rounded to.

A grid splits every output row of `weight_OI` into groups of S consecutive inputs, `weight_OGS` with G = I / S (G = 1:
one scale a row), fits a few parameters per group, and maps weights to integer codes and back:

    fit      weight_OI -> params        {"scale": (O, G), ...}
    encode   weight_OI -> codes_OI      integers of b bits
    decode   codes_OI  -> weight_OI     the value that each code stands for

A subclass writes only the maths on grouped tensors; grouping, the scale search and the straight-through gradient are
here. Grids hold no tensors, so one grid object serves every layer and every bit-width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from switchq.errors import UserError

Params = dict[str, Tensor]

ScaleSearch = Literal["absmax", "mse"]

SHRINKS = tuple(i / 50 for i in range(50, 9, -1))
"""Fractions of the absmax range that the MSE search tries: 1.00, 0.98, ... 0.20."""

CHUNK = 2**17
"""Weights that a CPU fits at a time: rows are independent, and so few stay in the cache over the whole search."""


@dataclass(frozen=True)
class Grid(ABC):
    """Base class of all grids.

    Args:
        group_size: inputs that share one scale; None gives one scale per output row.
        scale: `absmax` covers the largest weight of each group; `mse` tries narrower ranges and keeps, group by group,
            the one with the least squared error.

    Raises:
        UserError: a group size below 1, an unknown scale search.
    """

    integer_levels: ClassVar[bool] = False
    """Whether every level is an integer times the scale, without gaps: what learned scales need."""

    group_size: int | None = None
    scale: ScaleSearch = "absmax"

    def __post_init__(self) -> None:
        if self.group_size is not None and self.group_size < 1:
            raise UserError(f"group size {self.group_size}: use 32, 64 or 128, or none for one scale per output row")
        if self.scale not in get_args(ScaleSearch):
            raise UserError(f"no scale search {self.scale!r}: there are {', '.join(get_args(ScaleSearch))}")

    @property
    def nests(self) -> bool:
        """Whether the top bits of a code are the narrower codes, as in an artifact."""
        return False

    @abstractmethod
    def range_params(self, weight_OGS: Tensor, bits: int, shrink: float) -> Params:
        """Parameters, each (O, G, 1), that cover `shrink` times the range of every group; scales as `stored_scale`."""

    @abstractmethod
    def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """Codes (O, G, S) as a floating tensor of integers; `params` are (O, G, 1)."""

    @abstractmethod
    def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
        """Weights (O, G, S) that `codes_OGS` stand for; `params` are (O, G, 1)."""

    @abstractmethod
    def overhead_bits(self, shape: tuple[int, int], bits: int) -> int:
        """Bits stored beside the codes of a weight of `shape` (O, I): scales at 16 bits, zero points at `bits`."""

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain values, in the form that a configuration file has it in."""
        return {"class_path": type(self).__name__, "init_args": asdict(self)}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Grid":
        """The inverse of `to_dict`; only grids that are already imported can be named.

        Raises:
            UserError: an unknown grid or argument.
        """
        known = {grid.__name__: grid for grid in subclasses(Grid)}
        try:
            return known[str(content["class_path"]).rpartition(".")[2]](**content.get("init_args", {}))
        except (KeyError, TypeError) as error:
            raise UserError(f"no such grid: {error}; there are {', '.join(sorted(known))}") from None

    def groups(self, inputs: int) -> int:
        """Groups per output row.

        Raises:
            UserError: if the group size does not divide the row.
        """
        size = self.group_size or inputs
        if inputs % size:
            raise UserError(f"group size {size} does not divide a row of {inputs} inputs")
        return inputs // size

    def fit(self, weight_OI: Tensor, bits: int) -> Params:
        """Fit this grid to a weight.

        Args:
            weight_OI: the float weight, (O, I).
            bits: the width of a code, 2 to 8.

        Returns:
            The parameters, each (O, G), float32; scales hold float16 values, since 16 bits is what they are stored in.
        """
        shrinks = SHRINKS if self.scale == "mse" else SHRINKS[:1]
        return self.search(weight_OI, bits, shrinks, lambda error_OGS: error_OGS.square().sum(-1, keepdim=True))

    def search(
        self, weight_OI: Tensor, bits: int, shrinks: Sequence[float], cost: Callable[[Tensor], Tensor]
    ) -> Params:
        """Fit this grid to a weight by trying several ranges.

        Args:
            weight_OI: the float weight, (O, I).
            bits: the width of a code.
            shrinks: the fractions of the absmax range to try; of equally good ones the first is taken.
            cost: from the errors (O, G, S) of the rounded weight to what they cost each group, (O, G, 1); it is given
                some of the rows at a time.

        Returns:
            The parameters that cost least, group by group, as `fit` gives them.
        """
        weight_OGS = self._split(weight_OI.detach().float())
        rows = max(1, CHUNK // weight_OI.shape[1]) if weight_OI.device.type == "cpu" else len(weight_OGS)
        found = [self._search(rows_OGS, bits, shrinks, cost) for rows_OGS in weight_OGS.split(rows)]
        return {name: torch.cat([params[name] for params in found]).squeeze(-1) for name in found[0]}

    def _search(
        self, weight_OGS: Tensor, bits: int, shrinks: Sequence[float], cost: Callable[[Tensor], Tensor]
    ) -> Params:
        best = self.range_params(weight_OGS, bits, shrinks[0])
        least = cost(self._error(weight_OGS, best, bits)) if len(shrinks) > 1 else torch.empty(0)
        for shrink in shrinks[1:]:
            params = self.range_params(weight_OGS, bits, shrink)
            found = cost(self._error(weight_OGS, params, bits))
            better = found < least
            least = torch.where(better, found, least)
            best = {name: torch.where(better, params[name], value) for name, value in best.items()}
        return best

    def encode(self, weight_OI: Tensor, params: Params, bits: int) -> Tensor:
        """Integer codes (O, I), int16, of the values nearest to `weight_OI` on the fitted grid."""
        codes_OGS = self.encode_groups(self._split(weight_OI.float()), self._columns(params), bits)
        return codes_OGS.reshape(weight_OI.shape).to(torch.int16)

    def decode(self, codes_OI: Tensor, params: Params) -> Tensor:
        """The weight (O, I), float32, that integer codes stand for."""
        return self.decode_groups(self._split(codes_OI.float()), self._columns(params)).reshape(codes_OI.shape)

    def round(self, weight_OI: Tensor, params: Params, bits: int) -> Tensor:
        """The level (O, I) nearest to each weight, in the weight's dtype; what `decode` makes of `encode`."""
        columns = self._columns(params)
        codes_OGS = self.encode_groups(self._split(weight_OI.float()), columns, bits)
        return self.decode_groups(codes_OGS, columns).reshape(weight_OI.shape).to(weight_OI.dtype)

    def fake_quantize(self, weight_OI: Tensor, params: Params, bits: int) -> Tensor:
        """The rounded weight (O, I) in the weight's dtype, exactly, with a gradient that passes straight through.

        The straight-through estimator of Bengio et al. 2013 (arXiv:1308.3432): rounding's derivative is taken as 1.
        """
        rounded_OI = self.round(weight_OI.detach(), params, bits)
        return rounded_OI + (weight_OI - weight_OI.detach()) if weight_OI.requires_grad else rounded_OI

    def _split(self, weight_OI: Tensor) -> Tensor:
        rows, inputs = weight_OI.shape
        return weight_OI.reshape(rows, self.groups(inputs), -1)

    @staticmethod
    def _columns(params: Params) -> Params:
        return {name: value.unsqueeze(-1) for name, value in params.items()}

    def _error(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        rounded_OGS = self.decode_groups(self.encode_groups(weight_OGS, params, bits), params)
        return rounded_OGS - weight_OGS


SMALLEST_SCALE = 2.0**-24
"""Above 0, as 16 bits hold it."""


def stored_scale(scale: Tensor) -> Tensor:
    """`scale` as 16 bits hold it, with 1 in place of the zeros that constant-zero groups give; gradients pass straight
    through to those that are not."""
    stored = straight_through(scale, scale.detach().half().float())
    return torch.where(stored > 0, stored, torch.ones_like(stored))


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, whose gradient is taken to be that of `value` (Bengio et al. 2013, arXiv:1308.3432)."""
    return value + (rounded - value.detach()) if value.requires_grad else rounded


def subclasses(base: type[Any]) -> Iterator[type[Any]]:
    """All classes that derive from `base`, directly or not, abstract ones too."""
    for subclass in base.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
