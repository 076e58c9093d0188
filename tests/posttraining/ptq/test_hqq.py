"""HQQ against its package's update, group by group in plain numbers, and against where it starts from."""

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


def naive(weight_GS: Tensor, scale_G: Tensor, bits: int, iterations: int) -> Tensor:
    """The rounded groups: the package's half-quadratic iteration in double precision, until the mean error rises."""
    least, top = float("inf"), 2**bits - 1
    ranges = [(min(0.0, float(weight_S.min())), max(0.0, float(weight_S.max()))) for weight_S in weight_GS]
    zeros = [-low * top / (high - low) for low, high in ranges]
    if bits == 4:
        zeros = [float(round(-low / float(scale))) for (low, _), scale in zip(ranges, scale_G)]

    def rounded(weight_S: Tensor, scale: Tensor, zero: float) -> tuple[Tensor, Tensor]:
        codes_S = (weight_S / scale + zero).round().clamp(0, top)
        return codes_S, (codes_S - zero) * scale

    for _ in range(iterations):
        total, fitted = 0.0, []
        for weight_S, scale, zero in zip(weight_GS, scale_G, zeros):
            codes_S, value_S = rounded(weight_S, scale, zero)
            off_S = weight_S - value_S
            error_S = off_S.sign() * (off_S.abs() - off_S.abs() ** -0.3 / 10).clamp(min=0)
            fitted.append(float((codes_S - (weight_S - error_S) / scale).mean()))
            total += float(off_S.abs().sum())
        zeros = fitted
        if total >= least:
            break
        least = total
    stored = [2 ** (bits - 1) + float(torch.tensor(zero - 2 ** (bits - 1)).half()) for zero in zeros]
    return torch.stack([rounded(*group)[1] for group in zip(weight_GS, scale_G, stored)])


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("iterations", [0, 1, 20])
def test_against_the_update_written_out(bits: int, iterations: int) -> None:
    grid = Asymmetric(8)
    scale_G = grid.fit(WEIGHT_OI, bits)["scale"].flatten().double()
    expected_GS = naive(WEIGHT_OI.reshape(-1, 8).double(), scale_G, bits, iterations)
    actual_OI = Hqq(iterations=iterations).round(WEIGHT_OI, grid, bits, NONE).weight()
    torch.testing.assert_close(actual_OI, expected_GS.reshape(6, 32).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8)], ids=str)
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_mean_error_is_less_than_at_the_start(grid: Grid, scale: bool, bits: int) -> None:
    def mean(iterations: int) -> float:
        rounded_OI = Hqq(scale=scale, iterations=iterations).round(WEIGHT_OI, grid, bits, NONE).weight()
        return float((rounded_OI - WEIGHT_OI).abs().mean())

    assert mean(20) < mean(0)


def test_its_zero_points_take_sixteen_bits() -> None:
    rounded = Hqq().round(WEIGHT_OI, Asymmetric(8), 4, NONE)
    assert rounded.overhead_bits == 6 * 4 * (16 + 16)
    distance = rounded.params["zero"] - 8
    torch.testing.assert_close(distance.half().float(), distance, rtol=0, atol=1e-6)
    assert Hqq().round(WEIGHT_OI, Symmetric(8), 4, NONE).overhead_bits == 6 * 4 * 16


def test_mistakes() -> None:
    with pytest.raises(UserError, match="norm is above 0"):
        Hqq(norm=0)
