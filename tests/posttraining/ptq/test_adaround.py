"""AdaRound against its objective written out on the inputs and differentiated by autograd, and against brute force."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounders.adaround import AdaRound
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.quant import Apot, Asymmetric, Grid, Symmetric

from .conftest import inputs_of, statistics_of, weight_of

X_NI = inputs_of(24)

WEIGHT_OI = weight_of(6, 24)


def row_errors(weight_OI: Tensor, rounded_OI: Tensor, x_NI: Tensor) -> Tensor:
    """E (output error)^2 for each row, in double precision."""
    return (x_NI.double() @ (weight_OI - rounded_OI).double().T).square().mean(0)


def levels_around(weight_OI: Tensor, grid: Grid, bits: int) -> tuple[Tensor, Tensor]:
    """The levels next to each weight, found among all there are in its group."""
    params = grid.fit(weight_OI, bits)
    codes = torch.arange(-(2**bits), 2**bits + 1, dtype=torch.int16)
    every_KOI = torch.stack([grid.decode(torch.full_like(weight_OI, int(code)).short(), params) for code in codes])
    every_KOI = torch.stack([grid.fake_quantize(value_OI, params, bits) for value_OI in every_KOI])
    below_OI = torch.where(every_KOI <= weight_OI, every_KOI, -math.inf).amax(0)
    above_OI = torch.where(every_KOI > weight_OI, every_KOI, math.inf).amin(0)
    below_OI = torch.where(below_OI.isinf(), above_OI, below_OI)
    return below_OI, torch.where(above_OI.isinf(), below_OI, above_OI)


def naive(rounder: AdaRound, weight_OI: Tensor, grid: Grid, bits: int, x_NI: Tensor) -> Tensor:
    """The paper's training loop with autograd, on inputs."""
    low_OI, up_OI = levels_around(weight_OI, grid, bits)
    nearest_OI = Nearest().round(weight_OI, grid, bits, statistics_of(x_NI)).weight()
    least_O = row_errors(weight_OI, nearest_OI, x_NI).float()
    share_OI = torch.where(up_OI > low_OI, (weight_OI - low_OI) / (up_OI - low_OI), 0).clamp(0, 1)
    v_OI = torch.logit((share_OI + 0.1) / 1.2).requires_grad_()
    optimiser = torch.optim.Adam([v_OI], lr=rounder.rate)
    start = rounder.warm * rounder.iterations
    for iteration in range(rounder.iterations):
        h_OI = (torch.sigmoid(v_OI) * 1.2 - 0.1).clamp(0, 1)
        soft_OI = low_OI + h_OI * (up_OI - low_OI)
        loss = ((x_NI @ (weight_OI - soft_OI).T).square().mean(0) / least_O * weight_OI.shape[1]).sum()
        if iteration >= start:
            cosine = math.cos(math.pi * (iteration - start) / (rounder.iterations - start))
            beta = 2 + 18 * (1 + cosine) / 2
            loss = loss + rounder.weight * (1 - (2 * h_OI - 1).abs().pow(beta)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learned_OI = torch.where(v_OI.detach() >= 0, up_OI, low_OI)
    better_O = row_errors(weight_OI, learned_OI, x_NI) < least_O
    return torch.where(better_O[:, None], learned_OI, nearest_OI)


@pytest.mark.parametrize("grid", [Asymmetric(8), Symmetric(), Apot(8)], ids=str)
def test_against_autograd_on_the_inputs(grid: Grid) -> None:
    rounder = AdaRound(iterations=60)
    expected_OI = naive(rounder, WEIGHT_OI, grid, 3, X_NI)
    actual_OI = rounder.round(WEIGHT_OI, grid, 3, statistics_of(X_NI)).weight()
    assert ((actual_OI - expected_OI).abs() > 1e-5).float().mean() < 0.03
    ours, theirs = (row_errors(WEIGHT_OI, one_OI, X_NI).sum() for one_OI in (actual_OI, expected_OI))
    assert ours <= 1.02 * theirs


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", [Asymmetric(), Asymmetric(8), Symmetric(8), Apot(8)], ids=str)
def test_no_row_is_worse_than_nearest(grid: Grid, bits: int) -> None:
    nearest, learned = (
        row_errors(WEIGHT_OI, one.round(WEIGHT_OI, grid, bits, statistics_of(X_NI)).weight(), X_NI)
        for one in (Nearest(), AdaRound())
    )
    assert (learned <= nearest * (1 + 1e-4)).all()
    assert learned.sum() < nearest.sum()


def test_between_nearest_and_brute_force() -> None:
    """All 2^8 ways to round each row up and down: most of what can be won is."""
    x_NI, weight_OI, grid = inputs_of(8, seed=4), weight_of(20, 8), Asymmetric()
    low_OI, up_OI = levels_around(weight_OI, grid, 2)
    ways_KI = torch.tensor(list(product([False, True], repeat=8)))
    best_O = torch.stack([row_errors(weight_OI, torch.where(way_I, up_OI, low_OI), x_NI) for way_I in ways_KI]).amin(0)
    nearest_O, learned_O = (
        row_errors(weight_OI, one.round(weight_OI, grid, 2, statistics_of(x_NI)).weight(), x_NI)
        for one in (Nearest(), AdaRound())
    )
    assert (best_O <= learned_O * (1 + 1e-5)).all()
    assert learned_O.sum() - best_O.sum() < 0.5 * (nearest_O.sum() - best_O.sum())


def test_rounds_to_a_neighbouring_level() -> None:
    low_OI, up_OI = levels_around(WEIGHT_OI, Asymmetric(8), 3)
    actual_OI = AdaRound().round(WEIGHT_OI, Asymmetric(8), 3, statistics_of(X_NI)).weight()
    assert (torch.isclose(actual_OI, low_OI, atol=1e-6) | torch.isclose(actual_OI, up_OI, atol=1e-6)).all()


def test_more_iterations_less_error() -> None:
    short, long = (
        row_errors(
            WEIGHT_OI, AdaRound(iterations=n).round(WEIGHT_OI, Asymmetric(), 3, statistics_of(X_NI)).weight(), X_NI
        )
        for n in (1, 300)
    )
    assert long.sum() < 0.95 * short.sum()


@pytest.mark.parametrize("arguments", [{"iterations": 0}, {"rate": 0}, {"weight": -1}, {"warm": 1}, {"last": 1}])
def test_mistakes(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match="adaround"):
        AdaRound(**arguments)  # type: ignore[arg-type]
