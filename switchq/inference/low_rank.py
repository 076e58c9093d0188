"""x A^T B^T, added to a product: an adapter, and what a kernel leaves to add.

`LowRank` holds floats. `RoundedLowRank` holds 8 bits a number, a scale for each row of A and of B^T's columns, and
multiplies in PyTorch's operator for 8-bit weights: a quarter of the bytes, which is what such a product costs on one
token. It goes with a kernel whose activations and results are bfloat16, too.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

FEW = 4
"""Most tokens for which rounded factors are multiplied as they are; for more they are made floats first."""


class Factors(ABC):
    """What is added to a product."""

    @abstractmethod
    def added(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        """y + x A^T B^T."""

    @property
    @abstractmethod
    def resident_bytes(self) -> int:
        """Bytes that it holds in memory."""


class LowRank(Factors):
    """Factors as floats.

    Args:
        low_RI: A.
        high_RO: B^T, scaled.
    """

    def __init__(self, low_RI: Tensor, high_RO: Tensor) -> None:
        self.low_RI, self.high_RO = low_RI, high_RO

    def added(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        """See `Factors.added`."""
        return torch.addmm(y_NO, F.linear(x_NI, self.low_RI), self.high_RO)

    @property
    def resident_bytes(self) -> int:
        """See `Factors.resident_bytes`."""
        return self.low_RI.nbytes + self.high_RO.nbytes


class RoundedLowRank(Factors):
    """Factors of 8 bits a number; arguments as for `LowRank`, of sizes that `fits` admits."""

    def __init__(self, low_RI: Tensor, high_RO: Tensor) -> None:
        self.low_RI, self.low_R = _rounded(low_RI)
        self.high_OR, self.high_O = _rounded(high_RO.T)

    @staticmethod
    def fits(low_RI: Tensor) -> bool:
        """Whether the operator, which reads 16 numbers at a time and looks no further, stays within the factors."""
        return all(size % 16 == 0 for size in low_RI.shape)

    def added(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        """See `Factors.added`; of few tokens x, x A^T and what is added are bfloat16."""
        if len(x_NI) > FEW:
            low_RI = self.low_RI * self.low_R.float().unsqueeze(1)
            high_OR = self.high_OR * self.high_O.float().unsqueeze(1)
            return torch.addmm(y_NO, F.linear(x_NI, low_RI), high_OR.T)
        multiply = torch.ops.aten._weight_int8pack_mm
        return y_NO + multiply(multiply(x_NI.bfloat16(), self.low_RI, self.low_R), self.high_OR, self.high_O)

    @property
    def resident_bytes(self) -> int:
        """See `Factors.resident_bytes`."""
        return sum(one.nbytes for one in (self.low_RI, self.low_R, self.high_OR, self.high_O))


def _rounded(factor_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in -127 ... 127 and a bfloat16 scale a row, at least the largest number's 127th."""
    scale_O = (factor_OI.abs().amax(1) / 127 * (1 + 2**-8)).clamp_min(1e-30).bfloat16()
    codes_OI = (factor_OI / scale_O.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
    return codes_OI.contiguous(), scale_O
