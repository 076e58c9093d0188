"""SignRound against a plain training loop over a copy of the block, and its error beside that of nearest rounding."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from switchq.errors import UserError
from switchq.models import blocks_of, weight_view
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Method, Setting, quantise
from switchq.posttraining.ptq.rounder import Rounded
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.rounders.signround import SignRound
from switchq.posttraining.ptq.site import Linear
from switchq.posttraining.ptq.transform import Transform
from switchq.posttraining.ptq.transforms.activation_scale import ActivationScale
from switchq.posttraining.ptq.transforms.keep_risky import KeepRisky
from switchq.quant import Symmetric

from .conftest import SMALL, linears_of, method

MakeModel = Callable[..., PreTrainedModel]

SHORT = SignRound(iterations=12)


class Straight(torch.autograd.Function):
    """Any rounding, with a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Naive(nn.Module):
    """A weight's rounding, asymmetric in groups of 16 or symmetric by rows, as a parametrisation of its module."""

    def __init__(self, weight_OI: Tensor, bits: int, group: int | None, transposed: bool) -> None:
        super().__init__()
        self.groups_MS = weight_OI.reshape(-1, group or weight_OI.shape[1]).clone()
        self.shape, self.bits, self.asymmetric, self.transposed = weight_OI.shape, bits, group is not None, transposed
        self.v = nn.Parameter(torch.zeros_like(self.groups_MS))
        self.alpha = nn.Parameter(torch.ones(len(self.groups_MS), 1))
        self.beta = nn.Parameter(torch.ones(len(self.groups_MS), 1))

    def forward(self, _: Tensor) -> Tensor:
        low = self.groups_MS.amin(1, keepdim=True).clamp(max=0) * self.alpha
        high = self.groups_MS.amax(1, keepdim=True).clamp(min=0) * self.beta
        least, most = (0, 2**self.bits - 1) if self.asymmetric else (1 - 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1)
        scale = (high - low) / most if self.asymmetric else torch.maximum(-low, high) / most
        scale = Straight.apply(scale, scale.half().float())
        share = self.groups_MS / scale + self.v
        zero = Straight.apply(-low / scale, (-low / scale).round()) if self.asymmetric else 0
        rounded = scale * ((Straight.apply(share, share.round()) + zero).clamp(least, most) - zero)
        weight_OI = rounded.reshape(self.shape)
        return weight_OI.T if self.transposed else weight_OI


def states(model: PreTrainedModel, batch: Batch, block: int) -> tuple[Tensor, Tensor]:
    """Input and output of a block at the real tokens, from a whole forward."""
    found: list[Tensor] = []
    hook = blocks_of(model)[block].register_forward_hook(lambda _, given, output: found.extend((given[0], output)))
    model(**batch.inputs)
    hook.remove()
    before, after = (value.flatten(0, 1)[batch.real_N] for value in found)
    return before, after


def block_error(model: PreTrainedModel, whole: PreTrainedModel, batches: list[Batch], block: int) -> Tensor:
    """How far a block's outputs are off, over all real tokens of the batches."""
    return torch.cat([distances(states(model, one, block), states(whole, one, block)[1]) for one in batches]).mean()


def distances(ends: tuple[Tensor, Tensor], wanted_NI: Tensor) -> Tensor:
    """Of the output from what is wanted, squared, token by token (N), in the length of the input."""
    input_NI, output_NI = ends
    return ((output_NI - wanted_NI).norm(dim=1) / input_NI.norm(dim=1)).square()


def naive(model: PreTrainedModel, whole: PreTrainedModel, batches: list[Batch], block: int, setting: Setting) -> None:
    """Train one block of `model`, whose earlier blocks are rounded already, by the paper's loop with `SHORT`."""
    linears = [one for name, one in linears_of(model).items() if f".{block}." in name]
    own = []
    for linear in linears:
        rounding = Naive(weight_view(linear), setting.bits, setting.group_size, isinstance(linear, Conv1D))
        parametrize.register_parametrization(linear, "weight", rounding)
        own.append(rounding)
    trained = [value for rounding in own for value in rounding.parameters()]
    optimiser = torch.optim.SGD(trained, lr=1 / SHORT.iterations)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, SHORT.iterations)
    generator, order, kept = torch.Generator().manual_seed(setting.seed), list[int](), []
    start, best, least = [value.detach().clone() for value in trained], [], torch.tensor(torch.inf)
    for _ in range(SHORT.iterations):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        batch = batches[order.pop(0)]
        error = distances(states(model, batch, block), states(whole, batch, block)[1].detach()).mean()
        optimiser.zero_grad()
        error.backward()
        if error < least:
            best, least = [value.detach().clone() for value in trained], error.detach()
        for value in trained:
            assert value.grad is not None
            value.grad.sign_()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for rounding in own:
                rounding.alpha.clamp_(max=1)
                rounding.beta.clamp_(max=1)
    last = [value.detach().clone() for value in trained]
    with torch.no_grad():
        for candidate in (start, best, last):
            for value, wanted in zip(trained, candidate, strict=True):
                value.copy_(wanted)
            kept.append(block_error(model, whole, batches, block))
        for value, wanted in zip(trained, (start, best, last)[int(torch.stack(kept).argmin())], strict=True):
            value.copy_(wanted)
    for linear in linears:
        parametrize.remove_parametrizations(linear, "weight")


@pytest.mark.parametrize("setting", [SMALL, Setting(3, None, symmetric=True)], ids=["groups", "symmetric rows"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_against_a_plain_loop(architecture: str, setting: Setting, tiny: MakeModel, batches: list[Batch]) -> None:
    """Up to gradients so near to zero that the order of sums decides their sign."""
    whole = tiny(architecture)
    ours, theirs = copy.deepcopy(whole), copy.deepcopy(whole)
    quantise(ours, method(SHORT), setting, batches, progress=False)
    for block in range(2):
        naive(theirs, whole, batches, block, setting)
    pairs = zip(linears_of(ours).values(), linears_of(theirs).values(), strict=True)
    same = [torch.isclose(weight_view(one), weight_view(other), atol=1e-5).float().mean() for one, other in pairs]
    assert torch.stack(same[: len(same) // 2]).mean() > 0.99
    with torch.no_grad():
        for block in range(2):
            torch.testing.assert_close(
                block_error(ours, whole, batches, block), block_error(theirs, whole, batches, block), rtol=0.05, atol=0
            )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [16, None])
def test_the_first_block_is_no_worse_than_nearest(
    architecture: str, group: int | None, symmetric: bool, tiny: MakeModel, batches: list[Batch]
) -> None:
    """And better, in a few steps; later blocks get other inputs from the two."""
    setting, whole, errors = Setting(3, group, symmetric=symmetric), tiny(architecture), []
    for rounder in (Nearest(), SignRound(iterations=1), SignRound(iterations=40)):
        model = copy.deepcopy(whole)
        quantise(model, method(rounder), setting, batches, progress=False)
        with torch.no_grad():
            errors.append(float(block_error(model, whole, batches, 0)))
    assert errors[1] <= errors[0] * (1 + 1e-5)
    assert errors[2] < 0.9 * errors[0]


@pytest.mark.parametrize("group", [16, None])
@pytest.mark.parametrize("symmetric", [False, True])
def test_levels_and_what_the_model_holds(
    architecture: str, group: int | None, symmetric: bool, tiny: MakeModel, batches: list[Batch]
) -> None:
    model, codes = tiny(architecture), dict[str, Rounded]()
    setting = Setting(2, group, symmetric=symmetric)

    def on_layer(linear: Linear, rounded: Rounded) -> None:
        codes[linear.name] = rounded

    record = quantise(model, method(SHORT), setting, batches, on_layer=on_layer, progress=False)
    assert list(codes) == list(linears_of(model)) == [layer.name for layer in record.layers]
    for name, linear in linears_of(model).items():
        assert torch.equal(codes[name].weight(), weight_view(linear))
    assert all(2 <= layer.levels <= (3 if symmetric else 4) for layer in record.layers)
    assert all(layer.error is not None and 0 < layer.error < 1.5 for layer in record.layers)


@pytest.mark.parametrize(
    "step", [ActivationScale(), ActivationScale(shared=False), KeepRisky()], ids=["folded", "explicit", "kept rows"]
)
def test_after_a_transform(step: Transform, architecture: str, tiny: MakeModel, batches: list[Batch]) -> None:
    """It trains in the coordinates, and the rows, that the transform leaves to it."""
    whole, errors = tiny(architecture), []
    for rounder in (Nearest(), SignRound(iterations=40)):
        model = copy.deepcopy(whole)
        quantise(model, method(rounder, step), SMALL, batches, progress=False)
        with torch.no_grad():
            errors.append(float(block_error(model, whole, batches, 0)))
    assert errors[1] < 0.95 * errors[0]


def test_the_same_twice_and_another_by_another_seed(tiny: MakeModel, batches: list[Batch]) -> None:
    weights = []
    for seed in (0, 0, 1):
        model = tiny("llama")
        quantise(model, method(SHORT), replace(SMALL, seed=seed), batches, progress=False)
        weights.append(torch.cat([weight_view(linear).flatten() for linear in linears_of(model).values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_leaves_parameters_and_gradients_alone(tiny: MakeModel, batches: list[Batch]) -> None:
    model = tiny("llama")
    quantised, before = set(linears_of(model)), {name: one.clone() for name, one in model.named_parameters()}
    quantise(model, method(SHORT), replace(SMALL, skip=("*.0.*", "*down_proj")), batches, progress=False)
    for name, parameter in model.named_parameters():
        left = name.removesuffix(".weight") not in quantised or ".0." in name or "down_proj" in name
        assert torch.equal(parameter, before[name]) == left, name
        assert parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("one_shot", [False, True])
def test_bunches_make_no_difference(one_shot: bool, tiny: MakeModel, batches: list[Batch]) -> None:
    models = []
    for at_once in (1, 2):
        models.append(tiny("gpt2", n_layer=3))
        setting = replace(SMALL, blocks_at_once=at_once, one_shot=one_shot)
        quantise(models[-1], method(SHORT), setting, batches, progress=False)
    for one, other in zip(*(linears_of(model).values() for model in models), strict=True):
        assert torch.equal(weight_view(one), weight_view(other))


def test_one_shot_shows_the_float_inputs(tiny: MakeModel, batches: list[Batch]) -> None:
    """The second block comes out as if the first had been left out."""
    models = []
    for skip in ((), ("transformer.h.0.*",)):
        models.append(tiny("gpt2"))
        quantise(models[-1], method(SHORT), replace(SMALL, skip=skip, one_shot=True), batches, progress=False)
    one, other = (weight_view(linears_of(model)["transformer.h.1.mlp.c_fc"]) for model in models)
    assert torch.equal(one, other)


def test_needs_calibration_and_a_grid_with_a_range(tiny: MakeModel, batches: list[Batch]) -> None:
    with pytest.raises(UserError, match="needs calibration text"):
        quantise(tiny("gpt2"), method(SHORT), SMALL, progress=False)
    wide = Method("test", SHORT, grid={"init_args": {"scale": "mse"}})
    with pytest.raises(UserError, match="scale absmax"):
        quantise(tiny("gpt2"), wide, SMALL, batches, progress=False)


def test_symmetric_codes(tiny: MakeModel, batches: list[Batch]) -> None:
    seen: list[Rounded] = []
    setting = Setting(3, 16, symmetric=True)
    quantise(tiny("gpt2"), method(SHORT), setting, batches, on_layer=lambda _, one: seen.append(one), progress=False)
    assert all(isinstance(one.grid, Symmetric) and int(one.codes_OI.abs().max()) <= 3 for one in seen)


@pytest.mark.parametrize("arguments", [{"iterations": 0}, {"rate": 0.0}, {"rate": -1.0}])
def test_mistakes(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match="signround"):
        SignRound(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_twice_on_a_gpu(architecture: str, tiny: MakeModel, batches: list[Batch]) -> None:
    weights = []
    for _ in range(2):
        model = tiny(architecture).cuda()
        quantise(model, method(SHORT), SMALL, batches, progress=False)
        weights.append(torch.cat([weight_view(linear).flatten() for linear in linears_of(model).values()]))
    assert torch.equal(*weights)
