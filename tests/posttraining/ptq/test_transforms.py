"""What holds for every transform: the float model still computes the same, and rounding hurts no more."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import weight_view
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, quantise
from switchq.posttraining.ptq.transform import Transform
from switchq.posttraining.ptq.transforms.quarot import QuaRot

from .conftest import SMALL, TRANSFORMS, Float, linears_of, logits, method

MODELS = [
    ("gpt2", {}),
    ("llama", {}),
    ("llama", {"num_key_value_heads": 4}),
    ("qwen3", {}),
    ("mistral", {}),
    ("qwen2", {}),
    ("opt", {}),
    ("opt", {"activation_function": "gelu"}),
    ("opt", {"do_layer_norm_before": False}),
]


@pytest.fixture(params=TRANSFORMS, ids=lambda kind: kind.__name__)
def transform(request: pytest.FixtureRequest) -> Transform:
    """Every transform there is, as it comes."""
    made: Transform = request.param()
    return made


def trained(tiny: Callable[..., PreTrainedModel], architecture: str, **config: object) -> PreTrainedModel:
    """A model whose norms and biases do something and whose activations differ from channel to channel."""
    model = tiny(architecture, **config)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if "norm" in name or ".ln_" in name:
                parameter.copy_(0.2 + torch.rand(parameter.shape) ** 3 * 4)
    return model


@pytest.mark.parametrize(("architecture", "config"), MODELS, ids=str)
def test_the_float_model_computes_the_same(
    transform: Transform, architecture: str, config: dict[str, object], tiny: Callable[..., PreTrainedModel],
    batches: list[Batch],
) -> None:  # fmt: skip
    model = trained(tiny, architecture, **config)
    if isinstance(transform, QuaRot) and not config.get("do_layer_norm_before", True):
        with pytest.raises(UserError, match="blocks end in norms"):
            transform.prepare(model)
        return
    before, weights = logits(model, batches), {n: weight_view(m).clone() for n, m in linears_of(model).items()}
    record = quantise(model, method(Float(), transform), SMALL, batches, progress=False)
    difference = (logits(model, batches) - before).abs().max() / before.abs().max()
    assert difference < 1e-4
    plain = SMALL.grid().overhead_bits
    explicit = {layer.name for layer in record.layers if layer.overhead_bits > plain(layer.shape, 3)}
    now = {name: weight_view(module) for name, module in linears_of(model).items()}
    moved = {name for name in now if not torch.allclose(now[name], weights[name])}
    assert explicit | moved, "the transform did nothing"


def test_it_does_not_touch_what_is_left_out(
    transform: Transform, tiny: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    """Left-out linears are kept in step with a folded scale, so they still compute what they did."""
    model = trained(tiny, "llama")
    before = logits(model, batches)
    setting = Setting(bits=2, group_size=16, skip=("q_proj", "layers.1"))
    weights = {name: weight_view(module).clone() for name, module in linears_of(model).items()}
    record = quantise(model, method(Float(), transform), setting, batches, progress=False)
    assert {layer.name.split(".")[2] for layer in record.layers} == {"0"}
    assert (logits(model, batches) - before).abs().max() < 1e-4 * before.abs().max()
    for name, module in linears_of(model).items():
        if ".1." in name and type(transform).prepare is Transform.prepare:  # others rewrite the whole model
            assert torch.equal(weight_view(module), weights[name])


def test_the_same_twice(transform: Transform, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    found: list[Tensor] = []
    for _ in range(2):
        model = trained(tiny, "gpt2")
        quantise(model, method(Float(), transform), SMALL, batches, progress=False)
        found.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_keeps_the_dtype(
    transform: Transform, dtype: torch.dtype, tiny: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    model = trained(tiny, "llama").to(dtype)
    quantise(model, method(Float(), transform), SMALL, batches, progress=False)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.isfinite(logits(model, batches)).all()
