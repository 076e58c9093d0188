"""The nested grid against a reference number by number, and what nesting promises: one code holds all widths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from switchq.bitmap import WIDTHS
from switchq.quant import Asymmetric, Nested

GRIDS = [Nested(), Nested(32), Nested(64, "mse")]


@pytest.fixture
def weight_OI() -> Tensor:
    weight_OI = torch.randn(6, 128) * 0.1
    weight_OI[torch.rand_like(weight_OI) < 0.02] *= 5
    return weight_OI


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_narrow_code_is_the_top_of_the_wide_one(grid: Nested, bits: int, weight_OI: Tensor) -> None:
    parent_OI = grid.encode(weight_OI, grid.fit(weight_OI, 8), 8)
    codes_OI = grid.encode(weight_OI, grid.fit(weight_OI, bits), bits)
    assert torch.equal(codes_OI, parent_OI >> (8 - bits))
    assert parent_OI.min() >= -128
    assert parent_OI.max() <= 127


@pytest.mark.parametrize(
    "grid", [Nested(double=True), Nested(32, double=True), Nested(64, "mse", double=True)], ids=repr
)
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_doubly_rounded_code_is_nearest_to_the_wide_one(grid: Nested, bits: int, weight_OI: Tensor) -> None:
    """Halves go up, and what would carry past the widest code stays there."""
    parent = grid.encode(weight_OI, grid.fit(weight_OI, 8), 8).numpy().astype(int)
    codes = grid.encode(weight_OI, grid.fit(weight_OI, bits), bits).numpy()
    step, most = 2 ** (8 - bits), 2 ** (bits - 1) - 1
    expected = np.minimum((2 * parent + step) // (2 * step), most)
    assert np.array_equal(codes, expected)
    if bits < 8:
        assert not np.array_equal(codes, parent >> (8 - bits))
        assert ((2 * parent + step) // (2 * step) > most).any()


@pytest.mark.parametrize("bits", WIDTHS)
def test_agrees_with_a_search_and_a_regression(bits: int, weight_OI: Tensor) -> None:
    """The code is the nearest middle of 2^b cells of the range; scale and offset are numpy's line through the codes."""
    grid = Nested(32)
    params = grid.fit(weight_OI, bits)
    codes = grid.encode(weight_OI, params, bits).reshape(-1, 32).numpy()
    scales, offsets = params["scale"].flatten().numpy(), params["offset"].flatten().numpy()
    for group, code, scale, offset in zip(weight_OI.reshape(-1, 32).double().numpy(), codes, scales, offsets):
        step = (group.max() - group.min()) / 2**bits
        middles = group.min() + step * (np.arange(2**bits) + 0.5)
        nearest = np.abs(group[:, None] - middles).min(1)
        assert np.abs(np.abs(group - middles[code + 2 ** (bits - 1)]) - nearest).max() < 1e-6 * step * 2**bits
        slope, intercept = np.polyfit(code, group, 1)
        assert scale == pytest.approx(slope, rel=2**-8)
        assert offset == pytest.approx(group.mean() - scale * code.mean(), rel=2**-8, abs=1e-6)
        assert abs(intercept - offset) <= abs(slope) * 2.0 ** (bits - 8)


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_all_formats_hold_the_levels_exactly(grid: Nested, weight_OI: Tensor) -> None:
    for bits in WIDTHS:
        params = grid.fit(weight_OI, bits)
        for name in ("scale", "offset"):
            assert torch.equal(params[name].bfloat16().float(), params[name])
            assert torch.equal(params[name].half().float(), params[name])


@given(seed=st.integers(0, 2**31), bits=st.sampled_from((2, 3, 4)))
@settings(max_examples=30, deadline=None)
def test_groups_of_64_lose_little_to_a_grid_of_their_own(seed: int, bits: int) -> None:
    weight_OI = torch.randn(8, 256, generator=torch.Generator().manual_seed(seed))
    errors = []
    for grid in (Nested(64), Asymmetric(64, "mse")):
        rounded_OI = grid.fake_quantize(weight_OI, grid.fit(weight_OI, bits), bits)
        errors.append(float((rounded_OI - weight_OI).square().sum()))
    assert errors[0] < 1.1 * errors[1]


def test_the_range_search_takes_one_range_for_all_widths(weight_OI: Tensor) -> None:
    grid = Nested(64, "mse")
    ranges = [grid.fit(weight_OI, bits)["cell"] for bits in WIDTHS]
    assert all(torch.equal(one, ranges[0]) for one in ranges)
    assert (ranges[0] < Nested(64).fit(weight_OI, 8)["cell"]).any()


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("scale", ["absmax", "mse"])
@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-8, 1e-12, 0.0])
def test_groups_of_next_to_nothing(size: float, scale: str, bits: int) -> None:
    """Dead channels, and such that are nearly constant: 16 bits have no scale so small."""
    grid = Nested(scale=scale)  # type: ignore[arg-type]
    weight_OI = torch.randn(3, 64) * torch.tensor([[0.02], [size], [size]])
    weight_OI[2] += 5
    error_O = (grid.round(weight_OI, grid.fit(weight_OI, bits), bits) - weight_OI).abs().amax(1)
    span = weight_OI.amax(1) - weight_OI.amin(1)
    smallest = 2**-24  # that 16 bits hold
    assert error_O[1] <= span[1] + smallest
    assert error_O[2] <= span[2] + 5 * 2**-8  # the offset has 8 bits
    assert error_O[0] <= span[0]
