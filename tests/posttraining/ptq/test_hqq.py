"""HQQ against its published update, group by group in plain numbers, and against where it starts from."""

import pytest
import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import Rounder
from switchq.posttraining.ptq.rounders.hqq import Hqq
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Asymmetric, Grid, Symmetric

from .conftest import weight_of

WEIGHT_OI = weight_of(6, 32)

NONE = Statistics({})


def naive_group(weight_S: Tensor, scale: float, zero: float, bits: int, iterations: int) -> Tensor:
    """The rounded group: the zero point's half-quadratic iteration, in double precision."""

    def rounded(zero: float) -> tuple[Tensor, Tensor]:
        codes_S = (weight_S / scale + zero).round().clamp(0, 2**bits - 1)
        return codes_S, (codes_S - zero) * scale

    def cost(zero: float) -> float:
        return float((weight_S - rounded(zero)[1]).abs().pow(0.7).sum())

    tried, beta = [zero], 10.0
    zero = float((torch.tensor((2**bits - 1) / 2) - (weight_S.min() + weight_S.max()) / 2 / scale).half())
    tried.append(zero)
    for _ in range(iterations):
        codes_S, value_S = rounded(zero)
        off_S = weight_S - value_S
        error_S = off_S.sign() * (off_S.abs() - off_S.abs() ** -0.3 / beta).clamp(min=0)
        zero = float((codes_S - (weight_S - error_S) / scale).mean().half())
        beta *= 1.01
        tried.append(zero)
    return rounded(min(tried, key=cost))[1]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("iterations", [1, 20])
def test_against_the_published_update(bits: int, iterations: int) -> None:
    grid = Asymmetric(8)
    params = grid.fit(WEIGHT_OI, bits)
    expected_OGS = torch.stack(
        [
            torch.stack(
                [
                    naive_group(WEIGHT_OI[o, 8 * g : 8 * g + 8].double(), float(params["scale"][o, g]),
                                float(params["zero"][o, g]), bits, iterations)
                    for g in range(4)
                ]
            )
            for o in range(6)
        ]
    )  # fmt: skip
    actual_OI = Hqq(iterations=iterations).round(WEIGHT_OI, grid, bits, NONE).weight()
    torch.testing.assert_close(actual_OI, expected_OGS.reshape(6, 32).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8)], ids=str)
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_group_is_worse_than_at_the_start(grid: Grid, scale: bool, bits: int) -> None:
    weight_OI = weight_of(32, 64)

    def costs(rounder: Rounder) -> Tensor:
        rounded_OI = rounder.round(weight_OI, grid, bits, NONE).weight()
        return (rounded_OI - weight_OI).abs().pow(0.7).reshape(32, grid.groups(64), -1).sum(-1)

    start, end = costs(Nearest()), costs(Hqq(scale=scale))
    assert (end <= start * (1 + 1e-5)).all()
    if bits == 2:
        assert end.sum() < 0.97 * start.sum()


def test_the_zero_point_need_not_be_an_integer_at_the_start() -> None:
    weight_OI = torch.tensor([[-0.5, 0.5, 1.5, 2.5]])  # exact with step 1 and zero point 0.5
    assert torch.equal(Hqq(iterations=0).round(weight_OI, Asymmetric(), 2, NONE).weight(), weight_OI)


def test_constant_groups_stay_as_they_are() -> None:
    weight_OI = torch.tensor([[0.0] * 4 + [0.75] * 4 + [-0.75] * 4])
    assert torch.equal(Hqq().round(weight_OI, Asymmetric(4), 2, NONE).weight(), weight_OI)


def test_its_zero_points_take_sixteen_bits() -> None:
    rounded = Hqq().round(WEIGHT_OI, Asymmetric(8), 4, NONE)
    assert rounded.overhead_bits == 6 * 4 * (16 + 16)
    assert torch.equal(rounded.params["zero"].half().float(), rounded.params["zero"])
    assert Hqq().round(WEIGHT_OI, Symmetric(8), 4, NONE).overhead_bits == 6 * 4 * 16


def test_mistakes() -> None:
    with pytest.raises(UserError, match="norm is above 0"):
        Hqq(norm=0)
