"""Learned scales: gradients against LSQ's definition written out with torch operators, and what training them does."""

import math

import pytest
import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.nn import QuantLinear
from switchq.quant import Asymmetric, Grid, Symmetric
from switchq.quant.learned import learned_fake_quantize, learned_params

GRIDS = [Symmetric(), Symmetric(group_size=8), Asymmetric(group_size=8, scale="mse"), Asymmetric(scale="mse")]


def lsq(grid: Grid, weight_OI: Tensor, scale_OG: Tensor, params: dict[str, Tensor], bits: int) -> Tensor:
    """LSQ, equations 1 to 3, with half a step more on both sides: clamp, round straight through, multiply."""
    largest = 2 ** (bits - 1) - 1
    zero = params.get("zero", torch.zeros_like(scale_OG)).unsqueeze(-1)
    low, high = (-zero, 2**bits - 1 - zero) if "zero" in params else (zero - largest, zero + largest)
    scaled_OGS = weight_OI.reshape(*scale_OG.shape, -1) / scale_OG.unsqueeze(-1)
    clipped_OGS = torch.maximum(torch.minimum(scaled_OGS, high + 0.5), low - 0.5)
    codes_OGS = torch.maximum(torch.minimum(clipped_OGS.round(), high), low)
    rounded_OGS = clipped_OGS + (codes_OGS - clipped_OGS).detach()
    return (rounded_OGS * scale_OG.unsqueeze(-1)).reshape(weight_OI.shape)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_value_and_gradients_are_lsqs(grid: Grid, bits: int) -> None:
    weight_OI = (0.1 * torch.randn(6, 32)).requires_grad_()
    params = grid.fit(weight_OI, bits)
    log_scale_OG = (0.3 * torch.randn(params["scale"].shape) - 0.7).requires_grad_()
    upstream_OI = torch.randn(6, 32)
    ours_OI = learned_fake_quantize(grid, weight_OI, params, log_scale_OG, bits)
    (ours_OI * upstream_OI).sum().backward()

    scale_OG = learned_params(params, log_scale_OG.detach())["scale"].requires_grad_()
    other_OI = weight_OI.detach().clone().requires_grad_()
    theirs_OI = lsq(grid, other_OI, scale_OG, params, bits)
    (theirs_OI * upstream_OI).sum().backward()
    torch.testing.assert_close(ours_OI, theirs_OI)
    torch.testing.assert_close(weight_OI.grad, other_OI.grad)
    inputs = 32 // params["scale"].shape[1]
    lsq_OG = scale_OG.grad * scale_OG / math.sqrt(inputs * 2 ** (bits - 1))
    torch.testing.assert_close(log_scale_OG.grad, lsq_OG.detach(), rtol=1e-4, atol=1e-6)
    assert 0 < weight_OI.grad.count_nonzero() < weight_OI.numel()  # some are clipped, but not all


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_untrained_scales_change_no_bit(grid: Grid) -> None:
    linear = QuantLinear(torch.nn.Parameter(torch.randn(6, 32)), None, grid)
    before_OI = linear.round_weight(3)
    linear.fix_grid(3, learn_scales=True)
    assert torch.equal(linear.round_weight(3), before_OI)


def test_a_step_on_the_scales_shows_outside_of_training() -> None:
    """A frozen weight with trained scales: what was kept is rounded anew once the scales have moved."""
    linear = QuantLinear(torch.nn.Parameter(torch.randn(6, 32), requires_grad=False), None, Symmetric())
    linear.fix_grid(4, learn_scales=True)
    linear.bits = 4
    x, target = torch.randn(64, 32), torch.randn(64, 6)
    optimiser = torch.optim.AdamW([p for p in linear.parameters() if p.requires_grad], lr=0.02, weight_decay=0)
    losses = []
    for _ in range(30):
        loss = (linear(x) - target).square().mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        final = float((linear(x) - target).square().mean())
    assert final < losses[0]
    assert final == pytest.approx(losses[-1], rel=0.02)


def test_the_grid_of_a_trained_weight_stays_where_it_was_fitted() -> None:
    linear = QuantLinear(torch.nn.Parameter(torch.randn(6, 32)), None, Symmetric())
    linear.fix_grid(4, learn_scales=False)
    levels = linear.grid.fit(linear.weight, 4)["scale"]
    with torch.no_grad():
        linear.weight *= 0.5
    codes = linear.round_weight(4) / levels
    torch.testing.assert_close(codes, codes.round())
    assert codes.abs().max() < 7  # a new fit would reach the largest code again


def test_uneven_levels_are_refused() -> None:
    linear = QuantLinear(torch.nn.Parameter(torch.randn(6, 32)), None, Uneven())
    with pytest.raises(UserError, match="Uneven cannot be learned"):
        linear.fix_grid(4, learn_scales=True)


class Uneven(Symmetric):
    """A grid that does not say that its levels are integers."""

    integer_levels = False
