"""Modules whose weight runs at a switchable width: a linear layer, and an embedding that may share its weight."""

from torch import Tensor, nn
from torch.nn import functional as F

from switchq.nn.weight import QuantWeight
from switchq.quant import Grid


class QuantLinear(QuantWeight, nn.Linear):
    """y = x W^T + b with W rounded to the current width.

    Args:
        weight_OI: the full-precision weight; a parameter is taken over as it is, so tied weights stay tied.
        bias_O: the bias, never quantised.
        grid: where the weight is rounded to.

    Raises:
        UserError: if the grid's group size does not divide the row.
    """

    def __init__(self, weight_OI: nn.Parameter, bias_O: nn.Parameter | None, grid: Grid) -> None:
        outputs, inputs = weight_OI.shape
        super().__init__(inputs, outputs, bias=bias_O is not None, device="meta")
        self.weight = weight_OI
        self.bias = bias_O  # type: ignore[assignment]
        self._init_grid(grid)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(x, self.effective_weight(), self.bias)


class QuantEmbedding(QuantWeight, nn.Embedding):
    """A token embedding (V, I) with rows rounded to the current width.

    Args:
        weight_VI: the full-precision table.
        grid: where the table is rounded to.
        tied_to: the head that shares the table, if it is quantised too. Its rounded weight is then read, so the shared
            table has one width and one set of codes.
    """

    def __init__(self, weight_VI: nn.Parameter, grid: Grid, tied_to: QuantLinear | None = None) -> None:
        tokens, inputs = weight_VI.shape
        super().__init__(tokens, inputs, device="meta")
        self.weight = weight_VI
        self._init_grid(grid)
        self._source = (tied_to or self,)  # in a tuple, so that the head is not registered as a child

    def forward(self, input: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, I)."""
        return F.embedding(input, self._source[0].effective_weight())
