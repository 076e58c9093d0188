"""The search over alpha and the protected channels, against straightforward computations on the inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models.architecture import Input
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import load_methods, quantise
from switchq.posttraining.ptq.rounders.greedy import Greedy
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.site import Linear, Site
from switchq.posttraining.ptq.transform import Target, Transform
from switchq.posttraining.ptq.transforms.activation_scale import ActivationScale, power_scale
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.quant import Asymmetric

from .conftest import SMALL, inputs_of, output_error, statistics_of, weight_of

X_NI = inputs_of(32)

GRID = Asymmetric(8)


def site_of(*weights_OI: Tensor) -> Site:
    """Linears without anything in front of them."""
    block = nn.Module()
    for number, weight_OI in enumerate(weights_OI):
        linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False)
        linear.weight.data = weight_OI.clone()
        block.add_module(f"l{number}", linear)
    names = tuple(f"l{number}" for number in range(len(weights_OI)))
    linears = tuple(Linear(name, block.get_submodule(name)) for name in names)
    return Site(block, Input(names), linears, statistics_of(X_NI))


def errors(weight_OI: Tensor, salience_I: Tensor, points: int, bits: int, rounder: Greedy | Nearest) -> list[float]:
    """Output error on all inputs for each alpha, without any Gram matrix."""
    found = []
    for point in range(points):
        scale_I = power_scale(salience_I, point / 20)
        rounded = rounder.round(weight_OI * scale_I, GRID, bits, statistics_of(X_NI / scale_I))
        found.append(output_error(weight_OI, rounded.weight() / scale_I, X_NI))
    return found


@pytest.mark.parametrize("rounder", [Nearest(), Greedy()], ids=str)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    "transform",
    [
        ActivationScale(),
        ActivationScale(tokens=4096),
        ActivationScale("mean_square", points=21, shared=False, tokens=4096),
    ],
    ids=str,
)
def test_the_alpha_with_the_least_output_error(
    transform: ActivationScale, bits: int, rounder: Greedy | Nearest
) -> None:
    weight_OI = weight_of(12, 32)
    salience_I = X_NI.abs().mean(0) if transform.salience == "mean_abs" else X_NI.square().mean(0)
    expected = errors(weight_OI, salience_I, transform.points, bits, rounder)
    site = site_of(weight_OI)
    transform.apply(site, Target(GRID, bits, rounder))
    (linear,) = site.linears
    assert linear.notes["alpha"] == pytest.approx(min(range(len(expected)), key=expected.__getitem__) / 20)
    rounded = rounder.round(linear.weight_OI, GRID, bits, linear.seen(site.statistics))
    linear.write(rounded.weight())
    found = output_error(weight_OI, linear.weight_OI / linear.bases[0].into(torch.ones(1, 32)), X_NI)
    assert found == pytest.approx(min(expected), rel=1e-3)
    assert found < expected[0]


def test_linears_that_share_an_input_share_alpha_or_not() -> None:
    weights = weight_of(12, 32), weight_of(8, 32, seed=9)
    shared, single = site_of(*weights), site_of(*weights)
    ActivationScale().apply(shared, Target(GRID, 3, Nearest()))
    ActivationScale(shared=False).apply(single, Target(GRID, 3, Nearest()))
    alone = [errors(weight_OI, X_NI.abs().mean(0), 20, 3, Nearest()) for weight_OI in weights]
    summed = [sum(pair) for pair in zip(*alone)]
    assert [one.notes["alpha"] for one in shared.linears] == [summed.index(min(summed)) / 20] * 2
    assert [one.notes["alpha"] for one in single.linears] == [own.index(min(own)) / 20 for own in alone]


def test_power_scale() -> None:
    salience_I = torch.tensor([1.0, 4.0, 16.0])
    torch.testing.assert_close(power_scale(salience_I, 0.5), torch.tensor([0.5, 1.0, 2.0]))
    assert torch.equal(power_scale(salience_I, 0), torch.ones(3))
    assert torch.equal(power_scale(torch.zeros(3), 1), torch.ones(3))
    dead_I = power_scale(torch.tensor([0.0, 1e-3, 1e6]), 1)
    assert (dead_I > 0).all()
    assert torch.isfinite(dead_I).all()


def test_protected_channels_are_doubled() -> None:
    site = site_of(weight_of(12, 32))
    Protect(share=0.1).apply(site, Target(GRID, 3, Nearest()))
    expected_I = torch.ones(32)
    expected_I[X_NI.abs().sum(0).topk(3).indices] = 2
    torch.testing.assert_close(site.linears[0].weight_OI, weight_of(12, 32) * expected_I)
    assert site.linears[0].bases[0].overhead_bits == 32 * 16


@pytest.mark.parametrize("name", ["awq", "awq-l2", "awq-sh"])
def test_less_output_error_than_without_scales(
    name: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    """On the inputs of the first block, which no method has changed."""
    found = {
        one: quantise(tiny("gpt2"), load_methods()[one], SMALL, batches, progress=False).layers[0].error
        for one in (name, "rtn")
    }
    assert found[name] is not None
    assert found["rtn"] is not None
    assert found[name] < found["rtn"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationScale(salience="loudness"), "mean_abs, mean_square"),  # type: ignore[arg-type]
        (lambda: ActivationScale(points=0), "1 or more"),
        (lambda: ActivationScale(tokens=0), "1 or more"),
        (lambda: Protect(share=0), "share is above 0"),
        (lambda: Protect(factor=-1), "factor above 0"),
    ],
)
def test_mistakes(make: Callable[[], Transform], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
