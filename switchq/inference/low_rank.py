"""x A^T B^T, added to a product: an adapter."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from switchq.inference.kernels import Integer


class Factors(ABC):
    """What is added to a product.

    Attributes:
        products: both factors as packed weights, where they are such.
    """

    products: "tuple[Integer, Integer] | None" = None

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
