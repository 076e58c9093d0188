"""An embedding table as it is stored, and the head that may share it.

    weight (V, I) = codes (V, I) x scale (V, 1)        8-bit codes; or float16

A lookup decodes the rows that it needs. The head multiplies 8-bit codes like any layer, see
`switchq.inference.kernels`, and float16 rows by FBGEMM's product, which sums in float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from switchq.inference.kernels import Kernel, choose
from switchq.inference.kernels.trial import trial
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


class HalfEmbedding(nn.Module):
    """Token ids -> rows of a float16 table, which stays where it is mapped.

    Attributes:
        table_bytes: what the table takes on disk; a head that shares it counts nothing.
    """

    def __init__(self, weight_VI: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight_VI, self.dtype, self.table_bytes = weight_VI, dtype, weight_VI.nbytes

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., I)."""
        return self.weight_VI[ids].to(self.dtype)


class HalfHead(nn.Module):
    """Hidden states -> logits, float32 both, from a float16 table."""

    def __init__(self, weight_VI: Tensor, table_bytes: int = 0) -> None:
        super().__init__()
        self.packed, self.outputs, self.table_bytes = _pack_half(weight_VI), len(weight_VI), table_bytes

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., V)."""
        return _half_product(x.reshape(-1, x.shape[-1]), self.packed).view(*x.shape[:-1], self.outputs)


def _pack_half(weight_OI: Tensor) -> Any:
    return torch.ops.quantized.linear_prepack_fp16(weight_OI.float(), None)


def _half_product(x_NI: Tensor, packed: Any) -> Tensor:
    product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x_NI, packed)
    return product


@trial
def half_products() -> bool:
    """Whether PyTorch has FBGEMM's float16 product here."""
    return bool((_half_product(torch.ones(1, 16), _pack_half(torch.ones(8, 16))) == 16).all())
