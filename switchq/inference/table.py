"""An embedding table of 8-bit codes with one scale a row, and the head that may share it.

    weight (V, I) = codes (V, I) x scale (V, 1)

A lookup decodes the rows that it needs. The head multiplies like any 8-bit layer, see `switchq.inference.kernels`.
"""

import torch
from torch import Tensor, nn

from switchq.inference.kernels import Kernel, choose
from switchq.quant import Params, Symmetric

TABLE_GRID = Symmetric()
TABLE_BITS = 8


def encode_table(weight_VI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (V, I) int8 and scale (V, 1) float16."""
    params = TABLE_GRID.fit(weight_VI, TABLE_BITS)
    return TABLE_GRID.encode(weight_VI, params, TABLE_BITS).to(torch.int8), params["scale"].half()


def decode_table(codes_VI: Tensor, scale_V1: Tensor) -> Tensor:
    """The table (V, I), float32."""
    return TABLE_GRID.decode(codes_VI, {"scale": scale_V1.float()})


class TableEmbedding(nn.Module):
    """Token or position ids -> rows of the table.

    Attributes:
        table_bytes: what the table takes on disk; a head that shares it counts nothing.
    """

    def __init__(self, codes_VI: Tensor, scale_V1: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.codes_VI, self.scale_V1, self.dtype = codes_VI, scale_V1, dtype
        self.table_bytes = codes_VI.nbytes + scale_V1.nbytes

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., I)."""
        rows_NI, scale_N1 = self.codes_VI[ids.flatten()], self.scale_V1[ids.flatten()]
        return decode_table(rows_NI, scale_N1).view(*ids.shape, -1).to(self.dtype)


def table_kernel(codes_VI: Tensor, scale_V1: Tensor, packed: bool) -> Kernel:
    """What multiplies with a table on a CPU."""
    params: Params = {"scale": scale_V1.float(), "offset": torch.zeros(len(scale_V1), 1)}
    return choose(codes_VI, params, TABLE_BITS, TABLE_GRID, packed)


class TableHead(nn.Module):
    """Hidden states -> logits, from the codes of a table."""

    def __init__(self, kernel: Kernel, outputs: int, table_bytes: int = 0) -> None:
        super().__init__()
        self.kernel, self.outputs, self.table_bytes = kernel, outputs, table_bytes

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., V)."""
        return self.kernel.product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], self.outputs)
