"""GPTQ against optimal brain surgeon with an explicit inverse for every column, and brute force."""

from itertools import product

import pytest
import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.rounders.gptq import Gptq
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.quant import Asymmetric, Grid, Symmetric

from .conftest import inputs_of, output_error, statistics_of, weight_of

X_NI = inputs_of(24)

WEIGHT_OI = weight_of(6, 24)


def naive(
    weight_OI: Tensor, gram_II: Tensor, grid: Grid, bits: int, damp: float, act_order: bool, late: bool
) -> Tensor:
    """Round one column after the other; the inverse Hessian of the columns that remain is taken anew each time."""
    weight_OI, hessian_II = weight_OI.double(), gram_II.double()
    hessian_II = hessian_II + damp * hessian_II.diagonal().mean() * torch.eye(len(hessian_II))
    columns = list(range(len(hessian_II)))
    if act_order:
        columns.sort(key=lambda column: -float(gram_II[column, column]))
    size = grid.group_size or len(columns)
    params = grid.fit(weight_OI.float(), bits)
    rounded_OI = torch.zeros_like(weight_OI)
    for place, column in enumerate(columns):
        if late and column % size == 0:
            fitted = grid.fit(weight_OI[:, column : column + size].float(), bits)
            for name, value in fitted.items():
                params[name][:, column // size] = value[:, 0]
        rest = columns[place:]
        inverse_RR = torch.linalg.inv(hessian_II[rest][:, rest])
        own_OI = grid.decode(grid.encode(weight_OI.float(), params, bits), params)
        rounded_OI[:, column] = own_OI[:, column].double()
        error_O = (weight_OI[:, column] - rounded_OI[:, column]) / inverse_RR[0, 0]
        weight_OI[:, rest] -= error_O[:, None] * inverse_RR[0]
    return rounded_OI.float()


@pytest.mark.parametrize("grid", [Asymmetric(), Asymmetric(8), Symmetric(8)], ids=str)
@pytest.mark.parametrize("block", [5, 8, 128])
@pytest.mark.parametrize(("act_order", "static"), [(False, True), (True, True), (False, False)])
def test_against_the_inverse_of_every_remaining_hessian(grid: Grid, block: int, act_order: bool, static: bool) -> None:
    statistics = statistics_of(X_NI)
    rounder = Gptq(block=block, act_order=act_order, static_groups=static)
    late = not static and grid.group_size is not None
    expected_OI = naive(WEIGHT_OI, statistics["gram"], grid, 3, 0.01, act_order, late)
    actual_OI = rounder.round(WEIGHT_OI, grid, 3, statistics).weight()
    torch.testing.assert_close(actual_OI, expected_OI, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8)], ids=str)
@pytest.mark.parametrize("act_order", [True, False])
def test_no_worse_than_nearest_on_its_own_inputs(bits: int, grid: Grid, act_order: bool) -> None:
    statistics = statistics_of(X_NI)
    errors = [
        output_error(WEIGHT_OI, rounder.round(WEIGHT_OI, grid, bits, statistics).weight(), X_NI)
        for rounder in (Gptq(act_order=act_order), Nearest())
    ]
    assert errors[0] < errors[1]


def test_between_nearest_and_the_best_of_all_roundings() -> None:
    statistics = statistics_of(inputs_of(4, 60))
    gram_II, grid = statistics["gram"], Asymmetric()
    weight_OI = weight_of(2, 4, seed=2)
    params = grid.fit(weight_OI, 2)
    every_KI = torch.tensor(list(product(range(4), repeat=4)), dtype=torch.int16)
    ours_OI, nearest_OI = (one.round(weight_OI, grid, 2, statistics).weight() for one in (Gptq(damp=1e-6), Nearest()))
    for row in range(2):
        own = {name: value[row : row + 1].expand(len(every_KI), -1) for name, value in params.items()}
        off_KI = grid.decode(every_KI, own) - weight_OI[row]
        best = float(((off_KI @ gram_II) * off_KI).sum(1).min())
        ours, nearest = (float((d := one[row] - weight_OI[row]) @ gram_II @ d) for one in (ours_OI, nearest_OI))
        assert best * (1 - 1e-4) <= ours <= nearest * (1 + 1e-4)


def test_without_correlations_it_is_nearest_rounding() -> None:
    statistics = statistics_of(torch.diag(torch.rand(24) + 1))
    ours, nearest = (one.round(WEIGHT_OI, Asymmetric(8), 3, statistics).codes_OI for one in (Gptq(), Nearest()))
    assert torch.equal(ours, nearest)


def test_weights_of_dead_inputs_become_zero() -> None:
    x_NI = X_NI.clone()
    x_NI[:, [2, 9]] = 0
    rounded_OI = Gptq().round(WEIGHT_OI, Asymmetric(8), 4, statistics_of(x_NI)).weight()
    assert torch.equal(rounded_OI[:, [2, 9]], torch.zeros(6, 2))


def test_groups_out_of_order_have_to_be_static() -> None:
    with pytest.raises(UserError, match="needs static_groups"):
        Gptq(static_groups=False).round(WEIGHT_OI, Asymmetric(8), 4, statistics_of(X_NI))
    with pytest.raises(UserError, match="above zero"):
        Gptq(damp=0)
