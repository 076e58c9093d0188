"""Grids of powers of two, where a product with a weight is a few shifts and additions.

A width of b bits is a sign and B = b - 1 bits that pick one of at most 2^B magnitudes, times the group's scale.
Additive powers of two, APoT (Li, Dong and Wang, ICLR 2020, arXiv:1909.13144), make a magnitude of n = B / k terms with
k bits each:

    |w| / scale = gamma (p_0 + ... + p_(n-1))     p_i in {0, 2^-i, 2^-(i+n), ..., 2^-(i + (2^k - 2) n)}

with gamma such that the largest is 1. No power belongs to two terms, so all sums differ. B bits that k does not divide
leave r = B mod k bits to one more term, which takes its 2^r - 1 powers from the last 2^r - 1 rounds, first in each: at
k = 2 the paper's levels for odd B. k = 1 gives evenly spaced levels; a single term gives plain powers of two, which are
dense around zero whatever the width, and coarse at the ends. The scale is the group's largest weight times a factor
that `scale: mse` searches. Codes are signed ranks of the magnitudes: a larger code is a larger weight.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.quant.grid import Grid, Params, stored_scale

DEEPEST = 30
"""The smallest power of two is 2^-30: plain powers of two get no finer beyond 6 bits."""


@dataclass(frozen=True)
class Levels(Grid):
    """Base class of symmetric grids whose levels are not evenly spaced; `params` carry the width that picks them."""

    @abstractmethod
    def magnitudes(self, bits: int) -> tuple[float, ...]:
        """Levels that are not negative, at scale 1: from 0 up to 1."""

    def range_params(self, weight_OGS: Tensor, bits: int, shrink: float) -> Params:
        """scale = shrink x max|w|, and the width."""
        scale = stored_scale(weight_OGS.abs().amax(-1, keepdim=True) * shrink)
        return {"scale": scale, "width": torch.full_like(scale, bits)}

    def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """The rank of the nearest magnitude, signed."""
        level_K = _on_device(self.magnitudes(bits), weight_OGS.device)
        ratio_OGS = (weight_OGS / params["scale"]).contiguous()
        rank_OGS = torch.bucketize(ratio_OGS.abs(), (level_K[1:] + level_K[:-1]) / 2)
        return ratio_OGS.sign() * rank_OGS

    def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
        """The magnitude of that rank x scale, signed; a rank beyond the last stands for the last."""
        return self._decoded(codes_OGS, params, int(params["width"].flatten()[0]))

    def _decoded(self, codes_OGS: Tensor, params: Params, bits: int) -> Tensor:
        level_K = _on_device(self.magnitudes(bits), codes_OGS.device)
        rank_OGS = codes_OGS.abs().long().clamp(max=len(level_K) - 1)
        return codes_OGS.sign() * level_K[rank_OGS] * params["scale"]

    def _error(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """The base class's, without reading the width back from the device."""
        return self._decoded(self.encode_groups(weight_OGS, params, bits), params, bits) - weight_OGS

    def overhead_bits(self, shape: tuple[int, int], bits: int) -> int:
        """A 16-bit scale per group."""
        return shape[0] * self.groups(shape[1]) * 16


@dataclass(frozen=True)
class Pot(Levels):
    """Powers of two: 0, +-1, +-1/2, ... times the scale, 2^b - 1 levels at most."""

    def magnitudes(self, bits: int) -> tuple[float, ...]:
        """0 and the powers of two up to 1."""
        return (0.0, *(2.0**-exponent for exponent in reversed(range(min(2 ** (bits - 1) - 1, DEEPEST + 1)))))


@dataclass(frozen=True)
class Apot(Levels):
    """Additive powers of two, 2^b - 1 levels.

    Args:
        k: bits of a term.

    Raises:
        UserError: k below 1 or above 4.
    """

    k: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= 4:
            raise UserError(f"additive powers of two: terms have 1 to 4 bits, not {self.k}")

    def magnitudes(self, bits: int) -> tuple[float, ...]:
        """All sums of one power of each term, the largest brought to 1."""
        return _sums(bits - 1, self.k)


@lru_cache
def _on_device(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """Levels as a tensor, sent to a device once."""
    return torch.tensor(levels, device=device)


@lru_cache
def _sums(bits: int, k: int) -> tuple[float, ...]:
    count, rest = divmod(bits, k)
    terms: list[list[float]] = [[0.0] for _ in range(count)]
    extra = [0.0]
    rounds = 2**k - 1
    exponent = 0
    for step in range(rounds):
        joins = [extra] if step >= rounds - (2**rest - 1) else []
        for term in joins + terms:
            term.append(2.0**-exponent)
            exponent += 1
    sums = sorted(sum(picked) for picked in product(*terms, extra))
    return tuple(value / sums[-1] for value in sums)
