"""HQQ against its published update, group by group in plain numbers, and against where it starts from."""

import pytest
import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounders.hqq import Hqq
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Asymmetric, Grid, Symmetric

from .conftest import weight_of

WEIGHT_OI = weight_of(6, 32)

NONE = Statistics({})


def naive(weight_GS: Tensor, scale_G: Tensor, zero_G: Tensor, bits: int, iterations: int) -> Tensor:
    """The rounded groups: the zero points' half-quadratic iteration in double precision, until the mean error rises."""
    best_GS, least, beta = weight_GS, float("inf"), 10.0
    zeros = [float(zero) for zero in zero_G]
    for _ in range(iterations + 1):
        value_GS, fitted = torch.empty_like(weight_GS), []
        for group, (weight_S, scale, zero) in enumerate(zip(weight_GS, scale_G, zeros)):
            codes_S = (weight_S / scale + zero).round().clamp(0, 2**bits - 1)
            value_GS[group] = (codes_S - zero) * scale
            off_S = weight_S - value_GS[group]
            error_S = off_S.sign() * (off_S.abs() - off_S.abs() ** -0.3 / beta).clamp(min=0)
            fitted.append(float((codes_S - (weight_S - error_S) / scale).mean().half()))
        mean = float((weight_GS - value_GS).abs().mean())
        if mean >= least:
            break
        best_GS, least, zeros, beta = value_GS, mean, fitted, beta * 1.01
    return best_GS


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("iterations", [1, 20])
def test_against_the_published_update(bits: int, iterations: int) -> None:
    grid = Asymmetric(8)
    scale_G, zero_G = (grid.fit(WEIGHT_OI, bits)[name].flatten().double() for name in ("scale", "zero"))
    expected_GS = naive(WEIGHT_OI.reshape(-1, 8).double(), scale_G, zero_G, bits, iterations)
    actual_OI = Hqq(iterations=iterations).round(WEIGHT_OI, grid, bits, NONE).weight()
    torch.testing.assert_close(actual_OI, expected_GS.reshape(6, 32).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8)], ids=str)
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_mean_error_falls_from_the_start_on(grid: Grid, scale: bool, bits: int) -> None:
    def mean(iterations: int) -> float:
        rounded_OI = Hqq(scale=scale, iterations=iterations).round(WEIGHT_OI, grid, bits, NONE).weight()
        return float((rounded_OI - WEIGHT_OI).abs().mean())

    means = [mean(iterations) for iterations in range(5)]
    assert means == sorted(means, reverse=True)
    if bits == 2:
        assert means[-1] < means[0]


def test_its_zero_points_take_sixteen_bits() -> None:
    rounded = Hqq().round(WEIGHT_OI, Asymmetric(8), 4, NONE)
    assert rounded.overhead_bits == 6 * 4 * (16 + 16)
    assert torch.equal(rounded.params["zero"].half().float(), rounded.params["zero"])
    assert Hqq().round(WEIGHT_OI, Symmetric(8), 4, NONE).overhead_bits == 6 * 4 * 16


def test_mistakes() -> None:
    with pytest.raises(UserError, match="norm is above 0"):
        Hqq(norm=0)
