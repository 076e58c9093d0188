"""Contract of every grid, and each grid against a reference that works number by number."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from switchq.bitmap import WIDTHS
from switchq.errors import UserError
from switchq.quant import Apot, Asymmetric, Grid, Nested, Params, Pot, Stretched, Symmetric

OUTPUTS, INPUTS = 6, 256

UNIFORM = (Symmetric, Asymmetric, Stretched)

GRIDS = (*UNIFORM, Pot, Apot)


@pytest.fixture(params=WIDTHS, ids="{}bit".format)
def bits(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[None, 32, 64, 128], ids=["row", "group32", "group64", "group128"])
def group_size(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture(params=["absmax", "mse"])
def scale(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=(*GRIDS, Nested), ids=lambda grid: grid.__name__)
def grid(request: pytest.FixtureRequest, group_size: int | None, scale: str) -> Grid:
    return request.param(group_size=group_size, scale=scale)  # type: ignore[no-any-return]


@pytest.fixture
def weight_OI() -> Tensor:
    """Normal values with a few outliers; one row is all positive."""
    weight_OI = torch.randn(OUTPUTS, INPUTS) * 0.1
    weight_OI[torch.rand_like(weight_OI) < 0.01] *= 8
    weight_OI[-1].abs_()
    return weight_OI


def rounded(grid: Grid, weight_OI: Tensor, bits: int) -> Tensor:
    return grid.fake_quantize(weight_OI, grid.fit(weight_OI, bits), bits)


def half(value: float) -> float:
    return float(torch.tensor(value).half())


def naive_symmetric(group: list[float], bits: int) -> list[float]:
    largest = 2 ** (bits - 1) - 1
    scale = half(max(abs(value) for value in group) / largest) or 1.0
    return [scale * min(largest, max(-largest, round(value / scale))) for value in group]


def naive_asymmetric(group: list[float], bits: int) -> list[float]:
    largest = 2**bits - 1
    low, high = min(0.0, *group), max(0.0, *group)
    scale = half((high - low) / largest) or 1.0
    zero = min(largest, round(-low / scale))
    return [scale * (min(largest, max(0, round(value / scale) + zero)) - zero) for value in group]


def naive_stretched(group: list[float], bits: int) -> list[float]:
    scale = half(max(abs(value) for value in group) / (2**bits - 1) * 2)
    levels = [scale * (code + 0.5) for code in range(-(2 ** (bits - 1)), 2 ** (bits - 1))]
    return [min(levels, key=lambda level: abs(value - level)) for value in group]


@pytest.mark.parametrize(
    ("grid_type", "naive"),
    [(Symmetric, naive_symmetric), (Asymmetric, naive_asymmetric), (Stretched, naive_stretched)],
    ids=["Symmetric", "Asymmetric", "Stretched"],
)
def test_agrees_with_rounding_number_by_number(
    grid_type: type[Grid],
    naive: Callable[[list[float], int], list[float]],
    group_size: int | None,
    bits: int,
    weight_OI: Tensor,
) -> None:
    size = group_size or INPUTS
    expected = [
        [value for start in range(0, INPUTS, size) for value in naive(row[start : start + size], bits)]
        for row in weight_OI.tolist()
    ]
    actual = rounded(grid_type(group_size), weight_OI, bits)
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("grid_type", [Symmetric, Asymmetric])
def test_agrees_with_torch(grid_type: type[Grid], bits: int, weight_OI: Tensor) -> None:
    grid = grid_type()
    params = grid.fit(weight_OI, bits)
    largest = 2 ** (bits - 1) - 1
    low, high = (-largest, largest) if grid_type is Symmetric else (0, 2**bits - 1)
    zero = params.get("zero", torch.zeros(OUTPUTS, 1)).squeeze(-1).int()
    expected = torch.fake_quantize_per_channel_affine(weight_OI, params["scale"].squeeze(-1), zero, 0, low, high)
    torch.testing.assert_close(grid.fake_quantize(weight_OI, params, bits), expected, rtol=1e-6, atol=0)


def test_levels(grid: Grid, bits: int, weight_OI: Tensor) -> None:
    groups = rounded(grid, weight_OI, bits).reshape(OUTPUTS * grid.groups(INPUTS), -1)
    most = 2**bits - (not isinstance(grid, Asymmetric | Nested | Stretched))
    assert max(len(group.unique()) for group in groups) <= most


@pytest.mark.parametrize("grid_type", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_trainable_weight_has_the_same_levels(grid_type: type[Grid], dtype: torch.dtype, weight_OI: Tensor) -> None:
    """Straight-through must not smear the levels by a last place, not even where a narrow range cuts weights off."""
    weight_OI, grid = weight_OI.to(dtype), grid_type()
    params = grid.fit(weight_OI, 2)
    params["scale"] *= 0.11
    frozen_OI = grid.fake_quantize(weight_OI, params, 2)
    assert torch.equal(grid.fake_quantize(weight_OI.requires_grad_(), params, 2), frozen_OI)


def test_mse_is_no_worse_than_absmax(bits: int, group_size: int | None, weight_OI: Tensor) -> None:
    for grid_type in GRIDS:

        def error(scale: str, grid_type: type[Grid] = grid_type) -> Tensor:
            grid = grid_type(group_size, scale)  # type: ignore[arg-type]
            difference = rounded(grid, weight_OI, bits) - weight_OI
            return difference.reshape(OUTPUTS, grid.groups(INPUTS), -1).square().sum(-1)

        assert (error("mse") <= error("absmax") * (1 + 1e-6)).all()
        if bits == 2:
            assert error("mse").sum() < 0.9 * error("absmax").sum()


def test_what_is_on_the_grid_stays(grid: Grid, bits: int, weight_OI: Tensor) -> None:
    if isinstance(grid, Nested):
        pytest.skip("its levels are fitted to the weights and may lie outside of their cells")
    params = grid.fit(weight_OI, bits)
    codes_OI = grid.encode(weight_OI, params, bits)
    decoded_OI = grid.decode(codes_OI, params)
    assert torch.equal(grid.encode(decoded_OI, params, bits), codes_OI)
    assert torch.equal(grid.fake_quantize(decoded_OI, params, bits), decoded_OI)


def test_refitting_a_symmetric_grid_changes_nothing(
    scale: str, group_size: int | None, bits: int, weight_OI: Tensor
) -> None:
    grid = Symmetric(group_size, scale)  # type: ignore[arg-type]
    once_OI = rounded(grid, weight_OI, bits)
    assert torch.equal(rounded(grid, once_OI, bits), once_OI)


def test_parameters(grid: Grid, bits: int, weight_OI: Tensor) -> None:
    params = grid.fit(weight_OI, bits)
    for value in params.values():
        assert value.shape == (OUTPUTS, grid.groups(INPUTS))
        assert value.dtype == torch.float32
    assert torch.equal(params["scale"].half().float(), params["scale"])
    assert (params["scale"] > 0).all()
    if "zero" in params:
        assert torch.equal(params["zero"], params["zero"].round().clamp(0, 2**bits - 1))


def test_codes_are_integers_of_the_width(grid: Grid, bits: int, weight_OI: Tensor) -> None:
    codes_OI = grid.encode(weight_OI, grid.fit(weight_OI, bits), bits)
    assert not codes_OI.is_floating_point()
    assert codes_OI.shape == weight_OI.shape
    assert int(codes_OI.max()) - int(codes_OI.min()) <= 2**bits - 1


@pytest.mark.parametrize("grid_type", UNIFORM)
@given(seed=st.integers(0, 2**31), bits=st.sampled_from(WIDTHS), exponent=st.integers(-6, 6))
@settings(max_examples=60, deadline=None)
def test_error_is_half_a_step(grid_type: type[Grid], seed: int, bits: int, exponent: int) -> None:
    """Within the range; storing the scale in 16 bits moves the last level by 2^-11 of itself."""
    weight_OI = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    grid = grid_type(32)
    params = grid.fit(weight_OI, bits)
    error_OGS = (grid.fake_quantize(weight_OI, params, bits) - weight_OI).abs().reshape(3, 2, 32)
    assert (error_OGS <= params["scale"].unsqueeze(-1) * (0.5 + 2 ** (bits - 11) + 1e-4)).all()


@pytest.mark.parametrize("grid", [Symmetric(), Stretched(), Pot(), Apot()], ids=str)
@given(seed=st.integers(0, 2**31), bits=st.sampled_from(WIDTHS))
@settings(max_examples=30, deadline=None)
def test_symmetric_grids_are_their_own_mirror_image(grid: Grid, seed: int, bits: int) -> None:
    weight_OI = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rounded(grid, -weight_OI, bits), -rounded(grid, weight_OI, bits))


def test_more_bits_less_error(grid: Grid, weight_OI: Tensor) -> None:
    errors = [float((rounded(grid, weight_OI, bits) - weight_OI).square().sum()) for bits in WIDTHS]
    assert errors == sorted(errors, reverse=True)


def test_zeros_stay_zero(grid: Grid, bits: int) -> None:
    weight_OI = torch.zeros(OUTPUTS, INPUTS)
    if isinstance(grid, Stretched):  # zero is no level of it
        assert rounded(grid, weight_OI, bits).abs().max() < 4e-5
        return
    assert torch.equal(rounded(grid, weight_OI, bits), weight_OI)
    weight_OI[1] = torch.randn(INPUTS)
    assert torch.equal(rounded(grid, weight_OI, bits)[0], weight_OI[0])


@pytest.mark.parametrize("size", [48, 100, 512])
@pytest.mark.parametrize("grid_type", GRIDS)
def test_a_group_that_does_not_divide_the_row(grid_type: type[Grid], size: int, weight_OI: Tensor) -> None:
    with pytest.raises(UserError, match=f"group size {size} does not divide a row of 256"):
        grid_type(group_size=size).fit(weight_OI, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"group_size": 0}, "group size 0"), ({"group_size": -32}, "group size -32"), ({"scale": "max"}, "absmax, mse")],
    ids=str,
)
def test_impossible_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Symmetric(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grid", "bits", "expected"),
    [
        (Symmetric(), 2, 10 * 16),
        (Symmetric(), 8, 10 * 16),
        (Symmetric(32), 4, 10 * 4 * 16),
        (Symmetric(128), 4, 10 * 16),
        (Asymmetric(), 2, 10 * (16 + 2)),
        (Asymmetric(64), 4, 10 * 2 * (16 + 4)),
        (Pot(32), 4, 10 * 4 * 16),
        (Apot(), 5, 10 * 16),
        (Stretched(64), 2, 10 * 2 * 16),
    ],
    ids=str,
)
def test_overhead_by_hand(grid: Grid, bits: int, expected: int) -> None:
    assert grid.overhead_bits((10, 128), bits) == expected


def test_the_gradient_passes_straight_through(grid: Grid, bits: int, weight_OI: Tensor) -> None:
    weight_OI.requires_grad_()
    upstream_OI = torch.randn_like(weight_OI)
    (rounded(grid, weight_OI, bits) * upstream_OI).sum().backward()
    assert weight_OI.grad is not None
    assert torch.equal(weight_OI.grad, upstream_OI)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keeps_the_dtype(grid: Grid, dtype: torch.dtype, weight_OI: Tensor) -> None:
    weight_OI = weight_OI.to(dtype)
    actual_OI = rounded(grid, weight_OI, 4)
    assert actual_OI.dtype == dtype
    assert torch.equal(actual_OI, rounded(grid, weight_OI.float(), 4).to(dtype))


def test_does_not_depend_on_the_memory_layout(grid: Grid, weight_OI: Tensor) -> None:
    transposed_OI = weight_OI.T.contiguous().T
    assert not transposed_OI.is_contiguous()
    assert torch.equal(rounded(grid, transposed_OI, 3), rounded(grid, weight_OI, 3))


def test_groups_are_rounded_on_their_own(weight_OI: Tensor) -> None:
    changed_OI = weight_OI.clone()
    changed_OI[2, 64:128] *= 100
    before, after = rounded(Symmetric(64), weight_OI, 3), rounded(Symmetric(64), changed_OI, 3)
    different = (before != after).reshape(OUTPUTS, 4, 64).any(-1).nonzero().tolist()
    assert different == [[2, 1]]


def test_dict_round_trip(grid: Grid) -> None:
    content = grid.to_dict()
    assert Grid.from_dict(content) == grid
    assert Grid.from_dict(content | {"class_path": f"switchq.quant.{content['class_path']}"}) == grid
    assert hash(Grid.from_dict(content)) == hash(grid)


@pytest.mark.parametrize(
    "content",
    [
        {"class_path": "Hexagonal"},
        {"class_path": "Grid"},
        {"init_args": {}},
        {"class_path": "Symmetric", "init_args": {"colour": "red"}},
        {"class_path": "Symmetric", "init_args": {"scale": "red"}},
    ],
    ids=["unknown", "abstract", "no name", "unknown argument", "unknown value"],
)
def test_dict_mistakes(content: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Grid.from_dict(content)


def test_an_unknown_grid_is_told_which_there_are() -> None:
    with pytest.raises(UserError, match=r"Hexagonal.*Asymmetric, .*Symmetric"):
        Grid.from_dict({"class_path": "Hexagonal"})


def test_a_new_grid_writes_only_the_maths(weight_OI: Tensor) -> None:
    """Grouping, scale search, straight-through and naming come from the base class."""

    class Doubling(Symmetric):
        def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
            exponent = torch.log2((weight_OGS / params["scale"]).abs().clamp(min=1)).round()
            return weight_OGS.sign() * exponent

        def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
            return codes_OGS.sign() * 2 ** codes_OGS.abs() * params["scale"]

    grid = Grid.from_dict({"class_path": "Doubling", "init_args": {"group_size": 64}})
    assert isinstance(grid, Doubling)
    ratios_OGS = rounded(grid, weight_OI, 4).reshape(OUTPUTS, 4, 64) / grid.fit(weight_OI, 4)["scale"].unsqueeze(-1)
    exponents = torch.log2(ratios_OGS[ratios_OGS != 0].abs())
    torch.testing.assert_close(exponents, exponents.round())
    assert math.isfinite(float(exponents.sum()))
