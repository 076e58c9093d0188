"""Trained offsets and ranges: where they start, their gradients against autograd group by group, what codes mean."""

import pytest
import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.quant import Apot, Asymmetric, Grid, Pot, Symmetric
from switchq.quant.offset import OffsetRounding

GRIDS = [Asymmetric(8), Asymmetric(), Symmetric(8), Symmetric()]


def weights_of() -> list[Tensor]:
    """Three weights, two of them of one row length; one group is all zeros, one is positive throughout."""
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(rows, inputs, generator=generator) for rows, inputs in ((6, 16), (3, 32), (5, 16))]
    weights[0][1, :8] = 0
    weights[1][2, 8:16] = weights[1][2, 8:16].abs() + 0.1
    return weights


def moved(rounding: OffsetRounding, seed: int = 0) -> OffsetRounding:
    """The same with offsets up to half a step and ranges down to half."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for offset_M1S, factor_M12 in zip(rounding.trained[::2], rounding.trained[1::2], strict=True):
            offset_M1S += torch.rand(offset_M1S.shape, generator=generator) - 0.5
            factor_M12 -= torch.rand(factor_M12.shape, generator=generator) / 2
    return rounding


class _Round(torch.autograd.Function):
    """Rounding with a gradient of 1."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.round()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class _Half(torch.autograd.Function):
    """16 bits with a gradient of 1."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.half().float()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def one_group(w_S: Tensor, offset_S: Tensor, factor_2: Tensor, grid: Grid, bits: int) -> Tensor:
    """The paper's equations for one group, written with operations that autograd knows."""
    low, high = w_S.min().clamp(max=0) * factor_2[0], w_S.max().clamp(min=0) * factor_2[1]
    if isinstance(grid, Asymmetric):
        most = 2**bits - 1
        scale = _Half.apply((high - low) / most)
        zero = _Round.apply(-low / scale).clamp(0, most)
        return scale * ((_Round.apply(w_S / scale + offset_S) + zero).clamp(0, most) - zero)
    most = 2 ** (bits - 1) - 1
    scale = _Half.apply(torch.maximum(-low, high) / most)
    return scale * _Round.apply(w_S / scale + offset_S).clamp(-most, most)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_starts_at_nearest_rounding(grid: Grid, bits: int) -> None:
    weights = weights_of()
    for weight_OI, (codes_OI, params) in zip(weights, OffsetRounding(weights, grid, bits).codes(), strict=True):
        fitted = grid.fit(weight_OI, bits)
        assert params.keys() == fitted.keys()
        assert all(torch.equal(params[name], fitted[name]) for name in fitted)
        assert torch.equal(codes_OI, grid.encode(weight_OI, fitted, bits))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients_against_autograd_group_by_group(grid: Grid) -> None:
    (weight_OI,) = weights = weights_of()[2:]
    rounding = moved(OffsetRounding(weights, grid, 3))
    slope_OI = torch.randn(weight_OI.shape, generator=torch.Generator().manual_seed(4))
    (value_OI,) = rounding.weights()
    (value_OI * slope_OI).sum().backward()
    offset_M1S, factor_M12 = rounding.trained
    size = offset_M1S.shape[-1]
    for group, (w_S, slope_S) in enumerate(zip(weight_OI.reshape(-1, size), slope_OI.reshape(-1, size), strict=True)):
        offset_S, factor_2 = (one[group, 0].detach().clone().requires_grad_() for one in (offset_M1S, factor_M12))
        expected_S = one_group(w_S, offset_S, factor_2, grid, 3)
        (expected_S * slope_S).sum().backward()
        torch.testing.assert_close(value_OI.reshape(-1, size)[group], expected_S)
        assert offset_M1S.grad is not None
        assert factor_M12.grad is not None
        torch.testing.assert_close(offset_M1S.grad[group, 0], offset_S.grad)
        torch.testing.assert_close(factor_M12.grad[group, 0], factor_2.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_stand_for_the_rounded_weights(grid: Grid) -> None:
    weights = weights_of()
    rounding = moved(OffsetRounding(weights, grid, 3))
    for weight_OI, value_OI, (codes_OI, params) in zip(weights, rounding.weights(), rounding.codes(), strict=True):
        assert codes_OI.shape == weight_OI.shape == value_OI.shape
        assert all(value.shape == (len(weight_OI), grid.groups(weight_OI.shape[1])) for value in params.values())
        assert torch.equal(grid.decode(codes_OI, params), value_OI)
        assert torch.equal(params["scale"], params["scale"].half().float())


def test_an_offset_moves_a_weight_by_one_level_at_most() -> None:
    weights = weights_of()
    rounding = OffsetRounding(weights, Asymmetric(8), 3)
    before = rounding.codes()
    with torch.no_grad():
        for offset_M1S in rounding.trained[::2]:
            offset_M1S += torch.rand(offset_M1S.shape) - 0.5
    change = torch.cat([(old - new).flatten() for (old, _), (new, _) in zip(before, rounding.codes(), strict=True)])
    assert set(change.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("grid", [Asymmetric(8, scale="mse"), Pot(8), Apot(8)], ids=str)
def test_grids_without_a_range_to_train(grid: Grid) -> None:
    with pytest.raises(UserError, match="scale absmax"):
        OffsetRounding(weights_of(), grid, 4)
