"""Rotations that spread an outlier over all channels: x -> x M with M orthogonal, all entries about 1 / sqrt(I).

    M = diag(signs) (H (x) B)        H the Hadamard matrix of a power of two, B a small orthogonal matrix, F x F

Signs are random. B is 1 for powers of two. Otherwise it is the Hadamard matrix that Paley's construction gives (12, 20,
28, 36, 44, ...) for the odd part of I times 4, if I has it, or else a random rotation of the odd part. Nothing I x I is
ever made: H is applied by butterflies, I log I.

With `keeps_mean`, a reflection P that takes (1, ..., 1) M back to (1, ..., 1) follows: the mean of x, and so what
LayerNorm subtracts, stays what it was. P differs from the identity by about 1 / I in each entry.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.posttraining.ptq.basis import Basis
from switchq.posttraining.ptq.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Rotation(Basis):
    """An orthogonal change of coordinates, stored as one sign per channel.

    Attributes:
        sign_I: +1 or -1.
        small_FF: B.
        mirror_I: the unit vector that P reflects along; None for no P.
    """

    sign_I: Tensor
    small_FF: Tensor
    mirror_I: Tensor | None = None

    @classmethod
    def of(cls, size: int, seed: int = 0, keeps_mean: bool = False) -> "Rotation":
        """A rotation of `size` channels."""
        generator = torch.Generator().manual_seed(seed)
        sign_I = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
        rotation = cls(sign_I, _small(size, generator))
        if not keeps_mean:
            return rotation
        one_I = torch.ones(size, dtype=torch.float64) / math.sqrt(size)
        off_I = rotation.x(one_I) - one_I
        return cls(sign_I, rotation.small_FF, off_I / off_I.norm()) if off_I.norm() > 1e-6 else rotation

    def x(self, x_NI: Tensor) -> Tensor:
        """x M, for any leading dimensions."""
        return self._mirrored(self._hadamard(x_NI * self.sign_I.to(x_NI), self.small_FF.to(x_NI)))

    def x_back(self, x_NI: Tensor) -> Tensor:
        """x M^T."""
        return self._hadamard(self._mirrored(x_NI), self.small_FF.T.to(x_NI)) * self.sign_I.to(x_NI)

    def into(self, weight_OI: Tensor) -> Tensor:
        return self.x(weight_OI)

    def back(self, weight_OI: Tensor) -> Tensor:
        return self.x_back(weight_OI)

    def statistics(self, statistics: Statistics) -> Statistics:
        """Exact where they follow from the old ones; absolute values do not, and are those of the sampled inputs."""
        old, new = statistics.values, {}
        for name in {"mean", "samples"} & set(old):
            new[name] = self.x(old[name])
        if "gram" in old:
            new["gram"] = self.x(self.x(old["gram"]).T)
            new["mean_square"] = new["gram"].diagonal()
        if "samples" in new:
            size_NI = new["samples"].abs()
            sampled = {"mean_abs": size_NI.mean(0), "max_abs": size_NI.amax(0), "mean_square": size_NI.square().mean(0)}
            new = sampled | new
        return Statistics({name: value for name, value in new.items() if name in old}, statistics.tokens)

    @property
    def overhead_bits(self) -> int:
        """A bit for each sign; B follows from the size, or from a seed."""
        return len(self.sign_I)

    def _mirrored(self, x_NI: Tensor) -> Tensor:
        if self.mirror_I is None:
            return x_NI
        mirror_I = self.mirror_I.to(x_NI)
        return x_NI - 2 * (x_NI @ mirror_I)[..., None] * mirror_I

    @staticmethod
    def _hadamard(x_NI: Tensor, small_FF: Tensor) -> Tensor:
        """x (H (x) B)."""
        size = len(small_FF)
        x_NPF = x_NI.reshape(-1, x_NI.shape[-1] // size, size)
        return (_butterflies(x_NPF) @ small_FF).reshape(x_NI.shape)


def _butterflies(x_NPF: Tensor) -> Tensor:
    """Sylvester's Hadamard matrix, normalised, along the middle dimension, a power of two."""
    tokens, power, size = x_NPF.shape
    half = 1
    while half < power:
        pair = x_NPF.reshape(tokens, -1, 2, half, size)
        x_NPF = torch.stack([pair[:, :, 0] + pair[:, :, 1], pair[:, :, 0] - pair[:, :, 1]], 2)
        half *= 2
    return x_NPF.reshape(tokens, power, size) / math.sqrt(power)


def _small(size: int, generator: torch.Generator) -> Tensor:
    """B (F, F), float64, orthogonal; size / F is a power of two."""
    odd = size
    while odd % 2 == 0:
        odd //= 2
    if odd == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    known_FF = paley(4 * odd) if size % (4 * odd) == 0 else None
    if known_FF is not None:
        return known_FF / math.sqrt(4 * odd)
    return torch.linalg.qr(torch.randn(odd, odd, generator=generator, dtype=torch.float64)).Q


def paley(order: int) -> Tensor | None:
    """A Hadamard matrix, entries +-1, float64, from the squares modulo a prime q (Paley 1933).

    Its order is q + 1 if q leaves 3 when divided by 4, and 2 (q + 1) if it leaves 1. None where neither gives one.
    """
    for q, doubled in ((order - 1, False), (order // 2 - 1, True)) if order % 4 == 0 else ():
        if q > 2 and q % 4 == (1 if doubled else 3) and all(q % divisor for divisor in range(2, math.isqrt(q) + 1)):
            break
    else:
        return None
    square_Q = torch.full((q,), -1.0, dtype=torch.float64)
    square_Q[torch.arange(q).square() % q] = 1
    square_Q[0] = 0
    core = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    core[0, 1:] = 1
    core[1:, 0] = 1 if doubled else -1
    core[1:, 1:] = square_Q[(torch.arange(q)[:, None] - torch.arange(q)) % q]
    one = torch.eye(q + 1, dtype=torch.float64)
    if not doubled:
        return one + core
    plus, minus = torch.tensor([[1.0, 1], [1, -1]]).double(), torch.tensor([[1.0, -1], [-1, -1]]).double()
    return torch.kron(core, plus) + torch.kron(one, minus)
