"""Greedy rounding against a loop over single flips, and its promise about the mean error."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounders.greedy import Greedy
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.quant import Asymmetric, Grid, Symmetric

from .conftest import inputs_of, statistics_of, weight_of

GRIDS = [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8)]


def naive(weight_OI: Tensor, mean_I: Tensor, grid: Grid, bits: int, outliers: float) -> Tensor:
    """Codes, row by row: sort the useful flips, then walk through them and remember the best place to stop."""
    params = grid.fit(weight_OI, bits)
    codes_OI = grid.encode(weight_OI, params, bits).clone()
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if isinstance(grid, Symmetric) else (0, 2**bits - 1)
    frozen = set(mean_I.abs().argsort(descending=True)[: int(outliers * len(mean_I))].tolist())
    values_OI = grid.decode(codes_OI, params)
    size = weight_OI.shape[1] // grid.groups(weight_OI.shape[1])
    for row in range(len(weight_OI)):
        error = float((weight_OI[row] - values_OI[row]) @ mean_I)
        flips = []
        for i in range(len(mean_I)):
            step = 1 if weight_OI[row, i] >= values_OI[row, i] else -1
            scale = float(params["scale"][row, i // size])
            effect = step * scale * float(mean_I[i])
            if i not in frozen and low <= int(codes_OI[row, i]) + step <= high and effect * error > 0:
                flips.append((-abs(float(weight_OI[row, i] - values_OI[row, i])) / scale, i, step, effect))
        flips.sort()
        left, best, count = error, abs(error), 0
        for number, (_, _, _, effect) in enumerate(flips, start=1):
            left -= effect
            if abs(left) < best:
                best, count = abs(left), number
        for _, i, step, _ in flips[:count]:
            codes_OI[row, i] += step
    return codes_OI


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("outliers", [0.0, 0.05, 0.3])
def test_against_a_walk_through_single_flips(grid: Grid, bits: int, outliers: float) -> None:
    x_NI, weight_OI = inputs_of(32), weight_of(20, 32)
    actual = Greedy(outliers).round(weight_OI, grid, bits, statistics_of(x_NI)).codes_OI
    assert torch.equal(actual, naive(weight_OI, x_NI.mean(0), grid, bits, outliers))


@given(seed=st.integers(0, 2**31), bits=st.sampled_from((2, 3, 4, 8)), grid=st.sampled_from(GRIDS))
@settings(max_examples=40, deadline=None)
def test_no_row_gets_a_larger_mean_error(seed: int, bits: int, grid: Grid) -> None:
    x_NI, weight_OI = inputs_of(32, 20, seed), weight_of(10, 32, seed)
    statistics = statistics_of(x_NI)
    greedy, nearest = (
        ((weight_OI - one.round(weight_OI, grid, bits, statistics).weight()) @ x_NI.mean(0)).abs()
        for one in (Greedy(), Nearest())
    )
    assert (greedy <= nearest + 1e-5).all()


def test_the_mean_error_all_but_vanishes() -> None:
    x_NI, weight_OI = inputs_of(32), weight_of(50, 32)
    statistics = statistics_of(x_NI)
    greedy, nearest = (
        float(((weight_OI - one.round(weight_OI, Asymmetric(), 3, statistics).weight()) @ x_NI.mean(0)).abs().mean())
        for one in (Greedy(), Nearest())
    )
    assert greedy < 0.3 * nearest


def test_outliers_never_flip() -> None:
    x_NI, weight_OI = inputs_of(32), weight_of(50, 32)
    statistics = statistics_of(x_NI)
    largest = x_NI.mean(0).abs().topk(8).indices
    nearest = Nearest().round(weight_OI, Asymmetric(), 3, statistics).codes_OI
    careful, bold = (Greedy(share).round(weight_OI, Asymmetric(), 3, statistics).codes_OI for share in (0.25, 0.0))
    assert torch.equal(careful[:, largest], nearest[:, largest])
    assert not torch.equal(bold[:, largest], nearest[:, largest])
    assert torch.equal(Greedy(1.0).round(weight_OI, Asymmetric(), 3, statistics).codes_OI, nearest)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        Greedy(outliers=5)
