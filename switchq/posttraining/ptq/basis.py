"""Explicit changes of a linear's input coordinates, for what no norm or earlier linear can absorb.

The weight is rounded in the new coordinates and stored in the old ones, W' = Q(W M) M^-1: the same model as one that
multiplies its input by M^-T and keeps Q(W M), so a plain model scores it. What M takes to store is counted.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from switchq.posttraining.ptq.statistics import Statistics


class Basis(ABC):
    """An invertible M (I, I) that stands between a linear's weight and its input."""

    @abstractmethod
    def into(self, weight_OI: Tensor) -> Tensor:
        """W M, the weight that is rounded."""

    @abstractmethod
    def back(self, weight_OI: Tensor) -> Tensor:
        """W M^-1, the weight that the plain model gets."""

    @abstractmethod
    def x(self, x_NI: Tensor) -> Tensor:
        """x M^-T, the input that the rounded weight is multiplied with."""

    @abstractmethod
    def x_back(self, x_NI: Tensor) -> Tensor:
        """x M^T, the inverse of `x`."""

    @abstractmethod
    def statistics(self, statistics: Statistics) -> Statistics:
        """The statistics of `x(x)`."""

    @property
    @abstractmethod
    def overhead_bits(self) -> int:
        """Bits that M takes."""


@dataclass(frozen=True, eq=False)
class Scale(Basis):
    """M = diag(scale), (I,), positive; 16 bits each."""

    scale_I: Tensor

    def into(self, weight_OI: Tensor) -> Tensor:
        return weight_OI * self.scale_I

    def back(self, weight_OI: Tensor) -> Tensor:
        return weight_OI / self.scale_I

    def x(self, x_NI: Tensor) -> Tensor:
        return x_NI / self.scale_I

    def x_back(self, x_NI: Tensor) -> Tensor:
        return x_NI * self.scale_I

    def statistics(self, statistics: Statistics) -> Statistics:
        return statistics.scaled(self.scale_I)

    @property
    def overhead_bits(self) -> int:
        return 16 * len(self.scale_I)
