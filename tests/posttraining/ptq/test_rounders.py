"""What holds for every rounder: levels, determinism, no trace on its arguments, bad input."""

import pytest
import torch

from switchq.errors import UserError
from switchq.posttraining.ptq.rounder import LinearRounder
from switchq.posttraining.ptq.rounders.hqq import Hqq
from switchq.quant import Apot, Asymmetric, Grid, Pot, Symmetric

from .conftest import ROUNDERS, inputs_of, output_error, statistics_of, weight_of

X_NI = inputs_of(32)

WEIGHT_OI = weight_of(12, 32)

GRIDS = [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8), Apot(8)]


@pytest.fixture(params=ROUNDERS, ids=lambda kind: kind.__name__)
def rounder(request: pytest.FixtureRequest) -> LinearRounder:
    """Every rounder there is, as it comes."""
    made: LinearRounder = request.param()
    return made


@pytest.mark.parametrize("grid", [*GRIDS, Pot(8)], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_levels(rounder: LinearRounder, grid: Grid, bits: int) -> None:
    rounded = rounder.round(WEIGHT_OI, grid, bits, statistics_of(X_NI))
    assert rounded.codes_OI.dtype == torch.int16
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if not isinstance(grid, Asymmetric) else (0, 2**bits - 1)
    assert low <= int(rounded.codes_OI.min()) <= int(rounded.codes_OI.max()) <= high
    groups_MS = rounded.weight().reshape(12 * grid.groups(32), -1)
    assert max(len(group.unique()) for group in groups_MS) <= 2**bits
    assert rounded.overhead_bits >= grid.overhead_bits((12, 32), bits)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_eight_bits_are_all_but_exact_and_two_are_not(rounder: LinearRounder, grid: Grid) -> None:
    errors = [
        output_error(WEIGHT_OI, rounder.round(WEIGHT_OI, grid, bits, statistics_of(X_NI)).weight(), X_NI)
        / output_error(WEIGHT_OI, torch.zeros_like(WEIGHT_OI), X_NI)
        for bits in (8, 4, 2)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 2e-3 < errors[2] < 1.2


def test_the_same_twice_and_no_trace(rounder: LinearRounder) -> None:
    weight_OI, statistics = WEIGHT_OI.clone(), statistics_of(X_NI)
    before = {name: value.clone() for name, value in statistics.values.items()}
    first, second = (rounder.round(weight_OI, Asymmetric(8), 3, statistics, seed=5) for _ in range(2))
    assert torch.equal(first.codes_OI, second.codes_OI)
    assert torch.equal(first.weight(), second.weight())
    assert torch.equal(weight_OI, WEIGHT_OI)
    assert all(torch.equal(statistics[name], value) for name, value in before.items())


def test_reads_what_it_declares_and_no_more(rounder: LinearRounder) -> None:
    declared = statistics_of(X_NI, rounder.needs())
    lean = rounder.round(WEIGHT_OI, Asymmetric(8), 3, declared)
    assert torch.equal(lean.codes_OI, rounder.round(WEIGHT_OI, Asymmetric(8), 3, statistics_of(X_NI)).codes_OI)


def test_dead_inputs(rounder: LinearRounder) -> None:
    """Channels that are always zero, channels that are all alike, or nothing but zeros."""
    x_NI = X_NI.clone()
    x_NI[:, 3] = 0
    x_NI[:, 5] = x_NI[:, 4]
    for inputs_NI in (x_NI, x_NI[:2], torch.zeros_like(x_NI)):
        rounded_OI = rounder.round(WEIGHT_OI, Asymmetric(8), 8, statistics_of(inputs_NI)).weight()
        assert torch.isfinite(rounded_OI).all()
        whole = output_error(WEIGHT_OI, torch.zeros_like(WEIGHT_OI), inputs_NI)
        assert output_error(WEIGHT_OI, rounded_OI, inputs_NI) <= 2e-3 * whole


def test_zero_weights(rounder: LinearRounder) -> None:
    rounded = rounder.round(torch.zeros(4, 32), Asymmetric(8), 2, statistics_of(X_NI))
    assert torch.equal(rounded.weight(), torch.zeros(4, 32))


def test_a_group_that_does_not_divide_the_row(rounder: LinearRounder) -> None:
    with pytest.raises(UserError, match="group size 12 does not divide a row of 32"):
        rounder.round(WEIGHT_OI, Asymmetric(12), 4, statistics_of(X_NI))


def test_does_not_depend_on_the_memory_layout(rounder: LinearRounder) -> None:
    transposed_OI = WEIGHT_OI.T.contiguous().T
    one, other = (rounder.round(w, Asymmetric(8), 3, statistics_of(X_NI)) for w in (WEIGHT_OI, transposed_OI))
    assert (one.codes_OI != other.codes_OI).float().mean() < 0.01


@pytest.mark.parametrize(
    "rounder", [kind() for kind in ROUNDERS if kind.row_by_row], ids=lambda one: type(one).__name__
)
def test_rows_that_stand_alone_may_be_rounded_together(rounder: LinearRounder) -> None:
    other_OI = weight_of(5, 32, seed=4) * 3
    joined = rounder.round(torch.cat([WEIGHT_OI, other_OI]), Asymmetric(8), 3, statistics_of(X_NI))
    parts = joined.split([len(WEIGHT_OI), len(other_OI)])
    for own_OI, part in zip((WEIGHT_OI, other_OI), parts, strict=True):
        alone = rounder.round(own_OI, Asymmetric(8), 3, statistics_of(X_NI))
        assert part.codes_OI.shape == own_OI.shape
        torch.testing.assert_close(part.weight(), alone.weight())
        assert part.overhead_bits == alone.overhead_bits


def test_overhead_of_a_whole_weight_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        Hqq().round(WEIGHT_OI, Asymmetric(8), 3, statistics_of(X_NI)).split([4, len(WEIGHT_OI) - 4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_runs_where_the_weight_is(rounder: LinearRounder) -> None:
    there = statistics_of(X_NI.cuda())
    rounded = rounder.round(WEIGHT_OI.cuda(), Asymmetric(8), 3, there)
    assert rounded.codes_OI.is_cuda
    here = rounder.round(WEIGHT_OI, Asymmetric(8), 3, statistics_of(X_NI))
    assert (rounded.codes_OI.cpu() != here.codes_OI).float().mean() < 0.02
