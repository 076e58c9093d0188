"""Packed products against the decoded weight in float64."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from switchq.bitmap import WIDTHS
from switchq.inference.kernels import (
    Bags,
    Int4,
    Int8,
    Kernel,
    Plain,
    bag_products,
    choose,
    exact_products,
)
from switchq.quant import Nested, Params

OUTPUTS, INPUTS = 48, 256

LARGEST = [largest for largest in (63, 127) if exact_products(largest)]
"""Largest integers of `Int8`'s activations that this processor sums exactly."""


def coded(bits: int, group_size: int | None, seed: int = 0) -> tuple[Nested, Tensor, Params]:
    grid = Nested(group_size)
    weight_OI = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed))
    params = grid.fit(weight_OI, bits)
    return grid, grid.encode(weight_OI, params, bits).to(torch.int8), params


def full(kernel: Kernel, x_NI: Tensor) -> Tensor:
    """The product with what the caller adds."""
    y_NO = kernel.product(x_NI)
    return y_NO if kernel.offset_O is None else y_NO + x_NI.sum(-1, keepdim=True) * kernel.offset_O


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("group_size", [None, 32, 64, 128], ids=str)
@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 5), outlier=st.sampled_from((1.0, 50.0)))
@settings(max_examples=5, deadline=None)
def test_int4_rounds_only_activations_and_results(
    bits: int, group_size: int | None, seed: int, tokens: int, outlier: float
) -> None:
    """With activations that bfloat16 holds, levels and results are off by half of their last place.

    A lower product is at most sum |x| x scale x its largest code, and the upper one at most the result and that.
    """
    grid, codes_OI, params = coded(bits, group_size, seed)
    x_NI = torch.randn(tokens, INPUTS, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    x_NI[:, 7] *= outlier
    x_NI = x_NI.bfloat16().float()
    exact_NO = x_NI.double() @ grid.decode(codes_OI, params).double().T
    scale_OI = params["scale"].double().repeat_interleave(INPUTS // params["scale"].shape[1], 1)
    lower_NO = (x_NI.double().abs() @ scale_OI.T) * (2 ** max(bits - 4, 0) - 1)
    levels_NO = x_NI.double().abs() @ grid.decode(codes_OI, params).double().abs().T
    error_NO = (full(Int4(codes_OI, params, bits), x_NI).double() - exact_NO).abs()
    assert (error_NO <= 2**-9 * (exact_NO.abs() + levels_NO + 4 * lower_NO) * 1.01 + 1e-6 * x_NI.abs().sum()).all()


@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("bits", WIDTHS)
@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 5), outlier=st.sampled_from((1.0, 1000.0)))
@settings(max_examples=5, deadline=None)
def test_int8_rounds_activations_to_13_or_15_bits(
    bits: int, largest: int, seed: int, tokens: int, outlier: float
) -> None:
    grid, codes_OI, params = coded(bits, None, seed)
    x_NI = torch.randn(tokens, INPUTS, generator=torch.Generator().manual_seed(seed))
    x_NI[:, 7] *= outlier
    exact_NO = x_NI.double() @ grid.decode(codes_OI, params).double().T
    step_N1 = x_NI.abs().amax(-1, keepdim=True) / (2 * largest**2)
    codes_O = (codes_OI.double().abs().sum(-1)) * params["scale"].squeeze(-1)
    error_NO = (full(Int8(codes_OI, params, largest), x_NI).double() - exact_NO).abs()
    assert (error_NO <= 0.5 * step_N1 * codes_O * 1.01 + 1e-5 * exact_NO.abs().max()).all()


@pytest.mark.parametrize("largest", LARGEST)
def test_int8_loses_no_more_than_rounding_does(largest: int) -> None:
    """Over a million activations, errors are those of a number's last place, evenly spread: step / sqrt(12)."""
    grid, codes_OI, params = coded(8, None)
    x_NI = torch.randn(4096, INPUTS)
    exact_NO = x_NI.double() @ grid.decode(codes_OI, params).double().T
    step_N1 = x_NI.double().abs().amax(-1, keepdim=True) / (2 * largest**2)
    spread_O = (codes_OI.double() * params["scale"]).square().sum(-1).sqrt() / 12**0.5
    relative_NO = (full(Int8(codes_OI, params, largest), x_NI) - exact_NO) / (step_N1 * spread_O)
    assert 0.9 < relative_NO.square().mean().sqrt() < 1.1


@pytest.mark.parametrize("bits", [2, 3, 4])
@given(
    outputs=st.integers(1, 70),
    groups=st.integers(1, 5),
    size=st.integers(1, 70),
    tokens=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_bags_lose_only_what_float32_sums_do(
    bits: int, outputs: int, groups: int, size: int, tokens: int, seed: int
) -> None:
    """Any shape, any groups: each of at most size + groups + a few operations loses half of float32's last place."""
    generator = torch.Generator().manual_seed(seed)
    shape, lowest = (outputs, groups * size), 2 ** (bits - 1)
    codes_OI = torch.randint(-lowest, lowest, shape, generator=generator, dtype=torch.int8)
    params = {name: torch.randn(outputs, groups, generator=generator).half().float() for name in ("scale", "offset")}
    x_NI = torch.randn(tokens, groups * size, generator=generator)
    x_NI[:, -1] *= 50
    exact_NO = x_NI.double() @ Nested(size).decode(codes_OI, params).double().T
    scale_OI, offset_OI = (params[name].double().abs().repeat_interleave(size, 1) for name in ("scale", "offset"))
    largest_OI = scale_OI * 3 * 2 ** (4 - 1 if bits > 2 else 1) + offset_OI  # a code, unsigned, and the bias
    most_NO = x_NI.double().abs() @ largest_OI.T
    error_NO = (Bags(codes_OI, params, bits).product(x_NI).double() - exact_NO).abs()
    assert (error_NO <= 2**-24 * (2 * size + groups + 8) * most_NO).all()


def test_a_token_does_not_notice_the_others() -> None:
    for bits, kind in ((8, Int8), (4, Int4), (2, Bags)):
        grid, codes_OI, params = coded(bits, None)
        kernel = choose(codes_OI, params, bits, grid, prefer="memory")
        assert isinstance(kernel, kind)
        x_NI = torch.randn(6, INPUTS) * torch.logspace(-2, 3, 6).unsqueeze(-1)
        together = kernel.product(x_NI)
        alone = torch.cat([kernel.product(row.unsqueeze(0)) for row in x_NI])
        torch.testing.assert_close(together, alone, rtol=1e-2 if kind is Int4 else 1e-6, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7 * INPUTS, 2**18], ids=["a row", "unevenly", "at once"])
@pytest.mark.parametrize("group_size", [None, 64], ids=["rows", "groups"])
def test_plain_multiplies_some_rows_at_a_time(
    chunk: int, group_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, codes_OI, params = coded(4, group_size)
    x_NI = torch.randn(3, INPUTS)
    monkeypatch.setattr("switchq.inference.kernels.kernel.CHUNK", chunk)
    exact_NO = x_NI.double() @ grid.decode(codes_OI, params).double().T
    torch.testing.assert_close(Plain(codes_OI, params, grid).product(x_NI).double(), exact_NO, rtol=1e-5, atol=1e-5)


def test_zero_activations() -> None:
    for bits in (8, 4, 2):
        grid, codes_OI, params = coded(bits, None)
        kernel = choose(codes_OI, params, bits, grid, prefer="memory")
        assert torch.equal(kernel.product(torch.zeros(2, INPUTS)), torch.zeros(2, OUTPUTS))


@pytest.mark.parametrize(
    ("bits", "group_size", "expected"),
    [(8, None, Int8), (5, None, Int8), (4, None, Int4), (2, None, Int4), (8, 64, Int4), (3, 32, Int4), (4, 16, Plain)],
)
def test_choice(bits: int, group_size: int | None, expected: type[Kernel]) -> None:
    grid, codes_OI, params = coded(bits, group_size)
    assert type(choose(codes_OI, params, bits, grid)) is expected
    assert type(choose(codes_OI, params, bits, grid, packed=False)) is Plain


@pytest.mark.parametrize(
    ("bits", "group_size", "expected"),
    [(8, None, Int8), (8, 16, Plain), (4, None, Int4), (4, 16, Bags), (3, 32, Int4), (2, None, Bags), (2, 16, Bags)],
)
def test_choice_for_memory(bits: int, group_size: int | None, expected: type[Kernel]) -> None:
    grid, codes_OI, params = coded(bits, group_size)
    assert type(choose(codes_OI, params, bits, grid, prefer="memory")) is expected
    assert type(choose(codes_OI, params, bits, grid, packed=False, prefer="memory")) is Plain


@pytest.mark.parametrize("largest", LARGEST)
def test_the_largest_codes_and_activations_do_not_saturate(largest: int) -> None:
    codes_OI = torch.tensor([-128, 127], dtype=torch.int8).repeat_interleave(8)[:, None].repeat(1, 512)
    ones_O1 = torch.ones(16, 1)
    kernel = Int8(codes_OI, {"scale": ones_O1, "offset": 0 * ones_O1}, largest)
    for sign in (1.0, -1.0):
        exact_O = sign * 512.0 * codes_OI[:, 0]
        torch.testing.assert_close(kernel.product(torch.full((1, 512), sign))[0], exact_O, rtol=1e-6, atol=0)


@pytest.mark.skipif(not exact_products(63), reason="PyTorch has no FBGEMM here")
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512"])
def test_a_processor_whose_products_saturate_takes_narrower_activations(instructions: str) -> None:
    """FBGEMM can be kept from the instructions that the processor has, before it first looks for them."""
    code = (
        "import torch; from switchq.inference.kernels import choose, exact_products, largest_activation\n"
        "from switchq.quant import Nested\n"
        "codes, ones = torch.ones(16, 32, dtype=torch.int8), torch.ones(16, 1)\n"
        "kernel = choose(codes, {'scale': ones, 'offset': ones}, 8, Nested())\n"
        "print(exact_products(127), largest_activation(), type(kernel).__name__, kernel.split.largest)"
    )
    environment = {**os.environ, "FBGEMM_ENABLE_INSTRUCTIONS": instructions}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "63", "Int8", "63"]


def test_without_the_operator_there_is_no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr("switchq.inference.kernels.int8._packed", missing)
    assert not exact_products.__wrapped__(127)
    assert not exact_products.__wrapped__(63)


def test_without_the_operator_there_are_no_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    assert bag_products()
    monkeypatch.setattr("switchq.inference.kernels.bags._bags", missing)
    assert not bag_products.__wrapped__()


def test_memory_falls_with_bits() -> None:
    held = {bits: choose(*coded(bits, None)[1:], bits, Nested()).resident_bytes for bits in (8, 4, 2)}
    assert held[8] >= OUTPUTS * INPUTS > held[4]
    assert held[4] == held[2] == OUTPUTS * INPUTS // 2 + OUTPUTS * 4


@pytest.mark.parametrize(("group_size", "groups"), [(None, 1), (64, 4)])
def test_two_bits_take_two_bits_for_memory(group_size: int | None, groups: int) -> None:
    """And 4 bytes for each input, and for each group of each output."""
    grid, codes_OI, params = coded(2, group_size)
    kernel = choose(codes_OI, params, 2, grid, prefer="memory")
    assert kernel.resident_bytes == OUTPUTS * INPUTS // 4 + 4 * INPUTS + 4 * OUTPUTS * groups
