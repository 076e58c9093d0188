"""The risk-aware importance number by number, from moments and with noise, and what it keeps against E|z|."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import weight_view
from switchq.models.architecture import Input
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, load_methods, quantise
from switchq.posttraining.ptq.risk import compare, loud_silence, most_important, outputs_from_moments, outputs_of
from switchq.posttraining.ptq.site import Linear, Site
from switchq.posttraining.ptq.transform import Transform
from switchq.posttraining.ptq.transforms.keep_risky import KeepRisky
from switchq.quant import Asymmetric

from .conftest import inputs_of, linears_of, statistics_of, weight_of

X_NI = inputs_of(12, tokens=100)

WEIGHT_OI = weight_of(8, 12) * 0.3

BIAS_O = torch.linspace(-6, 1, 8)


def naive(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> list[float]:
    """In plain numbers."""
    x, w, b = x_NI.tolist(), weight_OI.tolist(), bias_O.tolist()
    size = sum(abs(value) for row in x for value in row) / x_NI.numel()
    found = []
    for row, bias in zip(w, b):
        z = [sum(u * v for u, v in zip(token, row)) + bias for token in x]
        mean = sum(z) / len(z)
        std = math.sqrt(sum((value - mean) ** 2 for value in z) / len(z))
        noise = size * sum(abs(value) for value in row) / len(row) * 0.2
        active = 1 / (1 + math.exp(-3 * (mean + 3 * std + noise + 3)))
        found.append(active * (sum(abs(value) for value in z) / len(z) + std))
    return found


def site_of(weight_OI: Tensor, bias_O: Tensor, x_NI: Tensor) -> Site:
    """One linear with a bias."""
    block = nn.Module()
    block.only = nn.Linear(weight_OI.shape[1], weight_OI.shape[0])
    block.only.weight.data, block.only.bias.data = weight_OI.clone(), bias_O.clone()
    return Site(block, Input(("only",)), (Linear("only", block.only),), statistics_of(x_NI))


def test_number_by_number() -> None:
    expected = torch.tensor(naive(X_NI, WEIGHT_OI, BIAS_O))
    torch.testing.assert_close(outputs_of(X_NI, WEIGHT_OI, BIAS_O).risk(), expected, rtol=1e-4, atol=1e-5)
    site = site_of(WEIGHT_OI, BIAS_O, X_NI)
    torch.testing.assert_close(KeepRisky().importance(site.linears[0], site), expected, rtol=1e-4, atol=1e-5)


def test_from_moments() -> None:
    """The mean and the deviation are exact for any inputs; E|z| is for normal ones."""
    some, none = outputs_of(X_NI, WEIGHT_OI, BIAS_O), outputs_from_moments(statistics_of(X_NI), WEIGHT_OI, BIAS_O)
    torch.testing.assert_close(none.mean_O, some.mean_O, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(none.std_O, some.std_O, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(none.noise_O, some.noise_O)
    normal_NI = torch.randn(40_000, 12) @ torch.randn(12, 12) + 0.3
    some, none = (
        outputs_of(normal_NI, WEIGHT_OI, BIAS_O),
        outputs_from_moments(statistics_of(normal_NI), WEIGHT_OI, BIAS_O),
    )
    torch.testing.assert_close(none.mean_abs_O, some.mean_abs_O, rtol=0.02, atol=0)
    torch.testing.assert_close(none.risk(), some.risk(), rtol=0.02, atol=1e-6)


def test_noise_is_averaged_over_draws() -> None:
    site = site_of(WEIGHT_OI, BIAS_O, X_NI)
    linear = site.linears[0]
    clean, robust = KeepRisky().importance(linear, site), KeepRisky(noise_std=0.01, draws=3).importance(linear, site, 4)
    generator = torch.Generator().manual_seed(4)
    draws = [
        torch.tensor(naive(X_NI + 0.01 * torch.randn(X_NI.shape, generator=generator), WEIGHT_OI, BIAS_O))
        for _ in range(3)
    ]
    torch.testing.assert_close(robust, torch.stack(draws).mean(0), rtol=1e-4, atol=1e-5)
    assert not torch.equal(robust, clean)
    torch.testing.assert_close(robust, clean, rtol=0.05, atol=1e-3)


def test_groups_are_kept_whole() -> None:
    importance_O = torch.tensor([9.0, 0, 0, 0, 4, 4, 1, 3, 5, 0, 0, 1, 0, 0, 0, 0])
    assert most_important(importance_O, 0.5, 4).reshape(4, 4).all(1).tolist() == [True, True, False, False]
    assert most_important(importance_O, 0.25, 4).nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert most_important(importance_O, 0.25, 16).nonzero().flatten().tolist() == [0, 4, 5, 8]
    assert most_important(importance_O[:2], 0.1, 32).tolist() == [True, False]


def test_loud_silence() -> None:
    """E|z| is fooled by size alone; risk ranks the silent channels by whether noise can wake them."""
    x_NI, weight_OI, bias_O = loud_silence()
    outputs = outputs_of(x_NI, weight_OI, bias_O)
    assert (outputs.mean_O[32:] < -10).all()
    assert (outputs.risk()[32:] > 5 * outputs.risk()[:32].mean()).all(), "loud channels are at risk though silent"
    asleep_OI = weight_OI.clone()
    asleep_OI[32:] *= 0.02
    quiet = outputs_of(x_NI, asleep_OI, bias_O)
    assert (quiet.mean_abs_O[32:] > quiet.mean_abs_O[:32].max()).all(), "E|z| keeps what never wakes"
    assert (quiet.risk()[32:] < 1e-3 * quiet.risk()[:32].min()).all()
    grid = Asymmetric(32)
    found = compare(x_NI, asleep_OI, grid.fake_quantize(asleep_OI, grid.fit(asleep_OI, 4), 4), bias_O)
    assert found.overlap == 0
    assert found.correlation < 0
    assert found.risk_mse < 0.1 * found.plain_mse
    loud = compare(x_NI, weight_OI, grid.fake_quantize(weight_OI, grid.fit(weight_OI, 4), 4), bias_O)
    assert loud.overlap == 1
    assert loud.correlation > 0.9
    assert loud.risk_mse == loud.plain_mse


def test_mse_by_hand() -> None:
    x_NI, weight_OI = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    found = compare(x_NI, weight_OI, torch.zeros(2, 1), activation=nn.Identity())
    assert found.risk_mse == found.plain_mse == pytest.approx((1 + 4) / 4)
    assert found.correlation == pytest.approx(1)


@pytest.mark.parametrize("name", ["praq", "fast-praq", "robust-praq"])
def test_half_of_the_channels_stay_and_are_counted(
    name: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    model = tiny("gpt2")
    before = {one: weight_view(module).clone() for one, module in linears_of(model).items()}
    record = quantise(model, load_methods()[name], Setting(4, 16), batches, progress=False)
    for layer in record.layers:
        same_O = (weight_view(model.get_submodule(layer.name)) == before[layer.name]).all(1)
        outputs, inputs = layer.shape
        kept = int(same_O.sum())
        assert kept == layer.notes["kept_channels"] == {32: 16, 96: 32, 128: 64}[outputs]
        stored = kept * inputs * 16 + (outputs - kept) * (inputs * 4 + inputs // 16 * 20) + outputs
        assert layer.effective_bits == pytest.approx(stored / outputs / inputs)
    assert 8 < record.effective_bits < 11
    plain = quantise(tiny("gpt2"), load_methods()["rtn"], Setting(4, 16), batches, progress=False)
    assert record.layers[0].error is not None
    assert plain.layers[0].error is not None
    assert record.layers[0].error < plain.layers[0].error


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepRisky(share=1),
        lambda: KeepRisky(draws=0),
        lambda: KeepRisky(tokens=None, noise_std=0.1),
        lambda: KeepRisky(noise_std=-1),
    ],
)
def test_mistakes(make: Callable[[], Transform]) -> None:
    with pytest.raises(UserError, match="keep risky"):
        make()
