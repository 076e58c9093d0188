"""What every kernel does, and the plain one, whose numbers are those of training."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from switchq.inference.low_rank import Factors
from switchq.quant import Grid, Params


class Kernel(ABC):
    """A weight (O, I) at one width, ready to be multiplied.

    Attributes:
        rows: whether `layer` wants the second factor in rows of outputs, and an even number of ranks.
        rounded_factors: whether an adapter beside it is held in 8 bits: where the weight's own rounding is far coarser.
    """

    rows = False
    rounded_factors = False

    @abstractmethod
    def product(self, x_NI: Tensor) -> Tensor:
        """(N, I) float32 -> (N, O) float32."""

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low: Factors | None) -> Tensor:
        """The product, + bias + the factors' product where there is any."""
        y_NO = self.product(x_NI)
        if bias_O is not None:
            y_NO += bias_O
        return y_NO if low is None else low.added(y_NO, x_NI)

    @property
    @abstractmethod
    def resident_bytes(self) -> int:
        """Bytes that it holds in memory."""


CHUNK = 2**18
"""Weights that are floats at a time: a megabyte, which stays in a core's cache until it is multiplied. A long input
gets no fewer rows than it has tokens, since a product of few rows is slow then."""


class Plain(Kernel):
    """Decode with the training grid, then multiply in float32, some rows after the other."""

    def __init__(self, codes_OI: Tensor, params: Params, grid: Grid) -> None:
        self.codes_OI, self.params, self.grid = codes_OI, params, grid

    def weight(self) -> Tensor:
        """The weight (O, I), float32."""
        return self.grid.decode(self.codes_OI, self.params)

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        outputs, inputs = self.codes_OI.shape
        rows = max(CHUNK // inputs, len(x_NI))
        y_NO = x_NI.new_empty(len(x_NI), outputs)
        for first in range(0, outputs, rows):
            some = slice(first, first + rows)
            params = {name: value[some] for name, value in self.params.items()}
            y_NO[:, some] = F.linear(x_NI, self.grid.decode(self.codes_OI[some], params))
        return y_NO

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return self.codes_OI.nbytes
