"""Rounding what goes into a linear, not only its weight: quantise-dequantise in a hook in front of it.

A hook is not part of a saved model: `save_pretrained` writes the weights, and a plain reload runs them on unrounded
inputs. The record of a run says so.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from switchq.bitmap import check_width
from switchq.errors import UserError
from switchq.posttraining.ptq.basis import Basis
from switchq.posttraining.ptq.statistics import Needs, Statistics


@dataclass(frozen=True)
class Activations(ABC):
    """Base class of all activation quantisers.

    Args:
        bits: the width of a code.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        check_width(self.bits)

    def needs(self) -> Needs:
        """The statistics of the input that `fit` reads."""
        return Needs()

    @abstractmethod
    def fit(self, statistics: Statistics) -> Callable[[Tensor], Tensor]:
        """The function that rounds an input (..., I)."""

    def _rounded(self, x: Tensor, range_: Tensor) -> Tensor:
        """To the nearest of the levels between -range and range."""
        largest = 2 ** (self.bits - 1) - 1
        scale = (range_ / largest).to(x.dtype)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return (x / scale).round().clamp(-largest, largest) * scale


@dataclass(frozen=True)
class PerToken(Activations):
    """Symmetric, one scale per token, taken from the token itself: scale = clip max|x| / (2^(b-1) - 1).

    Args:
        clip: the fraction of the token's largest value that the range covers.

    Raises:
        UserError: a fraction that is none.
    """

    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.clip <= 1:
            raise UserError(f"activations: clip is above 0 and at most 1, not {self.clip}")

    def fit(self, statistics: Statistics) -> Callable[[Tensor], Tensor]:
        """Needs no calibration."""
        return lambda x: self._rounded(x, x.abs().amax(-1, keepdim=True) * self.clip)


@dataclass(frozen=True)
class PerTensor(Activations):
    """Symmetric, one scale for all tokens and channels, from calibration: scale = max|x| / (2^(b-1) - 1)."""

    def needs(self) -> Needs:
        """The largest inputs."""
        return Needs.of("max_abs")

    def fit(self, statistics: Statistics) -> Callable[[Tensor], Tensor]:
        """The range is that of the calibration inputs; what exceeds it is cut off."""
        most = statistics["max_abs"].amax()
        return lambda x: self._rounded(x, most.to(x.device))


def install(module: nn.Module, quantise: Callable[[Tensor], Tensor], bases: Sequence[Basis] = ()) -> None:
    """Round the input of `module` from now on, in the coordinates that its weight was rounded in."""

    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *rest = arguments
        for basis in bases:
            x = basis.x(x)
        x = quantise(x)
        for basis in reversed(bases):
            x = basis.x_back(x)
        return (x, *rest)

    module.register_forward_pre_hook(hook)
