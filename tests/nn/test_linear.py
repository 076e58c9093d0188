from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from switchq.bitmap import FULL, WIDTHS
from switchq.errors import UserError
from switchq.nn import QuantEmbedding, QuantLinear
from switchq.quant import Asymmetric, Grid, Params, Symmetric

BITS = (*WIDTHS, FULL)

FITS: list[int] = []


@dataclass(frozen=True)
class CountingGrid(Symmetric):
    """Notes the width of every fit in `FITS`."""

    def fit(self, weight_OI: Tensor, bits: int) -> Params:
        FITS.append(bits)
        return super().fit(weight_OI, bits)


@pytest.fixture(autouse=True)
def fits() -> list[int]:
    FITS.clear()
    return FITS


def quant_linear(grid: Grid = CountingGrid(), *, trainable: bool = False, bias: bool = True) -> QuantLinear:
    linear = nn.Linear(32, 24, bias=bias).requires_grad_(trainable)
    return QuantLinear(linear.weight, linear.bias, grid)


def at_bits(linear: QuantLinear, bits: int) -> QuantLinear:
    if not linear.is_prepared(bits):
        linear.prepare(bits)
    linear.bits = bits
    return linear


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_equals_linear_at_full_precision(bias: bool) -> None:
    original = nn.Linear(32, 24, bias=bias)
    linear = QuantLinear(original.weight, original.bias, Symmetric())
    x = torch.randn(5, 7, 32)
    assert linear.bits == FULL
    assert torch.equal(linear(x), original(x))
    assert linear.weight is original.weight
    assert linear.bias is original.bias


@pytest.mark.parametrize("shape", [(32,), (7, 32), (5, 7, 32)], ids=str)
def test_equals_conv1d_at_full_precision(shape: tuple[int, ...]) -> None:
    original = Conv1D(24, 32)
    nn.init.normal_(original.bias)
    linear = QuantLinear(nn.Parameter(original.weight.detach().T), original.bias, Symmetric())
    x = torch.randn(shape)
    assert torch.equal(linear(x), original(x))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(32, "mse"), Asymmetric(32)], ids=repr)
def test_is_a_linear_with_the_rounded_weight(grid: Grid, bits: int) -> None:
    linear = quant_linear(grid)
    x = torch.randn(3, 32)
    params = grid.fit(linear.weight, bits)
    rounded_OI = grid.decode(grid.encode(linear.weight, params, bits), params)
    expected = F.linear(x, rounded_OI, linear.bias)
    assert torch.equal(at_bits(linear, bits)(x), expected)
    assert not torch.equal(expected, F.linear(x, linear.weight, linear.bias))


def test_a_frozen_weight_is_rounded_once(fits: list[int]) -> None:
    linear = quant_linear()
    for bits in (8, 4, 8, 16, 4, 2, 8):
        at_bits(linear, bits)
        for training in (True, False):
            linear.train(training)(torch.randn(2, 32, requires_grad=True)).sum().backward()
    assert fits == [8, 4, 2]


def test_a_frozen_weight_that_was_changed_is_rounded_anew() -> None:
    linear = quant_linear()
    at_bits(linear, 4)
    with torch.no_grad():
        linear.weight.mul_(2)
    at_bits(linear, 4)
    assert torch.equal(linear.effective_weight(), linear.round_weight(4))


def test_loading_a_state_dict_is_a_change() -> None:
    linear, other = quant_linear(), quant_linear()
    at_bits(linear, 4)
    linear.load_state_dict(other.state_dict())
    assert torch.equal(at_bits(linear, 4).effective_weight(), other.round_weight(4))


OPTIMISERS: dict[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_trainable_weight_follows_its_optimiser(optimiser: str, fits: list[int]) -> None:
    linear = at_bits(quant_linear(trainable=True), 4)
    optimizer = OPTIMISERS[optimiser]([linear.weight])
    x = torch.randn(8, 32)
    for _ in range(3):
        linear(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        grid = Symmetric()
        expected = F.linear(x, grid.fake_quantize(linear.weight, grid.fit(linear.weight, 4), 4), linear.bias)
        assert torch.equal(linear(x), expected)
        fits.clear()
        with torch.no_grad():
            for _ in range(3):
                assert torch.equal(linear(x), expected)
        assert fits == [4], "outside of training a weight is rounded only when it has changed"


def test_a_weight_that_is_trained_at_full_precision_only() -> None:
    """A fused optimiser leaves no trace on it, and what was rounded before is of the weight as it was then."""
    linear, x = quant_linear(trainable=True), torch.randn(8, 32)
    optimizer = torch.optim.AdamW([linear.weight], lr=0.1, fused=True)
    with torch.no_grad():
        before = at_bits(linear, 4)(x)
    at_bits(linear, FULL)(x).square().sum().backward()
    optimizer.step()
    grid = Symmetric()
    expected = F.linear(x, grid.fake_quantize(linear.weight, grid.fit(linear.weight, 4), 4), linear.bias)
    with torch.no_grad():
        after = at_bits(linear, 4)(x)
    assert torch.equal(after, expected)
    assert not torch.equal(after, before)


def test_a_switch_rounds_no_trainable_weight(fits: list[int]) -> None:
    linear = at_bits(quant_linear(trainable=True), 4)
    with torch.no_grad():
        linear.weight.mul_(2)
    fits.clear()
    assert linear.is_prepared(4)
    linear(torch.randn(2, 32))
    assert fits == [4]


def test_a_weight_that_is_frozen_after_training(fits: list[int]) -> None:
    linear = at_bits(quant_linear(trainable=True), 4)
    optimizer = torch.optim.AdamW([linear.weight], lr=0.1, fused=True)
    linear(torch.randn(8, 32)).square().sum().backward()
    optimizer.step()
    linear.requires_grad_(False)
    fits.clear()
    grid = Symmetric()
    expected_OI = grid.fake_quantize(linear.weight, grid.fit(linear.weight, 4), 4)
    assert torch.equal(linear.effective_weight(), expected_OI)
    linear(torch.randn(2, 32))
    assert fits == [4]


def test_a_weight_prepared_under_inference_mode_can_be_trained_through() -> None:
    linear = quant_linear()
    with torch.inference_mode():
        at_bits(linear, 3)
        linear(torch.randn(2, 32))
    x = torch.randn(2, 32, requires_grad=True)
    linear(x).sum().backward()
    torch.testing.assert_close(x.grad, linear.round_weight(3).sum(0).expand(2, 32))


def test_the_weight_gradient_is_that_of_the_rounded_product() -> None:
    linear = at_bits(quant_linear(trainable=True), 2)
    x = torch.randn(4, 32)
    linear(x).sum().backward()
    torch.testing.assert_close(linear.weight.grad, x.sum(0).expand(24, 32))


def test_rounded_weights_are_not_saved() -> None:
    linear = at_bits(quant_linear(), 4)
    assert set(linear.state_dict()) == {"weight", "bias"}


def test_rounded_weights_move_along() -> None:
    linear = at_bits(quant_linear(), 4).double()
    assert linear.effective_weight().dtype == torch.float64


def test_a_group_size_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(UserError, match="group size 64 does not divide a row of 32"):
        quant_linear(Symmetric(64))


@pytest.mark.parametrize("bits", BITS)
def test_embedding_reads_rounded_rows(bits: int) -> None:
    original = nn.Embedding(50, 32).requires_grad_(False)
    embedding = QuantEmbedding(original.weight, Symmetric())
    embedding.prepare(bits)
    embedding.bits = bits
    ids = torch.randint(0, 50, (2, 9))
    expected = original.weight if bits == FULL else embedding.round_weight(bits)
    assert torch.equal(embedding(ids), expected[ids])


def test_a_tied_embedding_reads_the_head() -> None:
    weight = nn.Parameter(torch.randn(50, 32), requires_grad=False)
    head = QuantLinear(weight, None, CountingGrid())
    embedding = QuantEmbedding(weight, CountingGrid(), tied_to=head)
    at_bits(head, 2)
    ids = torch.arange(50)
    assert torch.equal(embedding(ids), head.effective_weight())
    assert FITS == [2]
    assert list(embedding.children()) == []
