"""SmoothQuant's scale channel by channel, what it does to ranges, and W8A8 with outliers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import weight_view
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, load_methods, quantise
from switchq.posttraining.ptq.activations import PerTensor, PerToken
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.posttraining.ptq.transforms.smooth import Smooth

from .conftest import SMALL, Float, linears_of, logits, method, statistics_of

METHODS = load_methods()


def inputs_of(model: PreTrainedModel, batches: list[Batch], index: int = 0) -> Tensor:
    """The input (N, I) of a linear at real tokens."""
    kept: list[Tensor] = []
    hook = list(linears_of(model).values())[index].register_forward_hook(lambda m, a, output: kept.append(a[0]))
    logits(model, batches)
    hook.remove()
    return torch.cat([x.flatten(0, 1)[batch.real_N] for x, batch in zip(kept, batches)])


def loud(tiny: Callable[..., PreTrainedModel], architecture: str = "llama") -> PreTrainedModel:
    """A model with two loud channels in front of its first linears, and weights that are small there."""
    model = tiny(architecture)
    block = model.transformer.h[0] if architecture == "gpt2" else model.model.layers[0]
    norm = block.ln_1 if architecture == "gpt2" else block.input_layernorm
    readers = [block.attn.c_attn] if architecture == "gpt2" else [
        block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj
    ]  # fmt: skip
    with torch.no_grad():
        norm.weight[[3, 17]] *= 100
        for reader in readers:
            weight_view(reader)[:, [3, 17]] /= 100
    return model


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_scales_channel_by_channel(alpha: float, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("llama")
    x_NI, attention = inputs_of(model, batches), model.model.layers[0].self_attn
    readers = [attention.q_proj, attention.k_proj, attention.v_proj]
    before = [reader.weight.detach().clone() for reader in readers]
    quantise(model, method(Float(), Smooth(alpha)), SMALL, batches, progress=False)
    for channel in range(32):
        widest = max(float(weight_OI[:, channel].abs().max()) for weight_OI in before)
        scale = float(x_NI[:, channel].abs().max()) ** alpha / widest ** (1 - alpha)
        torch.testing.assert_close(readers[0].weight[:, channel], before[0][:, channel] * scale, rtol=1e-4, atol=1e-6)
    product_NI = inputs_of(model, batches) * readers[0].weight[0]
    torch.testing.assert_close(product_NI, x_NI * before[0][0], rtol=1e-3, atol=1e-5)


def test_half_and_half_evens_the_ranges_out(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = loud(tiny, "gpt2")
    quantise(model, method(Float(), Smooth(0.5)), SMALL, batches, progress=False)
    column_I = weight_view(model.transformer.h[0].mlp.c_fc).abs().amax(0)
    torch.testing.assert_close(inputs_of(model, batches, 2).abs().amax(0), column_I, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["smoothquant-w8a8", "smoothquant-w8a8-static"])
def test_loud_channels_no_longer_hurt(name: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    exact = logits(loud(tiny), batches)

    def error(*steps: Smooth) -> float:
        model = loud(tiny)
        own = method(METHODS[name].rounder, *steps, grid=METHODS[name].grid, activations=METHODS[name].activations)
        quantise(model, own, Setting(), batches, progress=False)
        return float((logits(model, batches) - exact).square().mean())

    assert error(Smooth()) < 0.2 * error()


@pytest.mark.parametrize("name", ["smoothquant-w8a8", "smoothquant-w8a8-static"])
def test_it_is_w8a8_at_any_setting(name: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("llama")
    record = quantise(model, METHODS[name], Setting(bits=3, group_size=16), batches, progress=False)
    assert {(layer.bits, layer.notes["widths"]) for layer in record.layers} == {(8, "W8A8")}
    assert record.layers[0].effective_bits == 8 + 16 / 32
    assert record.reload == "the rounding of activations"


def test_static_and_dynamic_ranges() -> None:
    x_NI = torch.tensor([[1.0, -0.26], [10.0, 3.0]])
    static = PerTensor(3).fit(statistics_of(x_NI, PerTensor().needs()))
    assert PerTensor().needs() == Needs.of("max_abs")
    torch.testing.assert_close(static(x_NI), torch.tensor([[0.0, 0.0], [10.0, 10 / 3]]))
    torch.testing.assert_close(static(10 * x_NI[1:]), torch.tensor([[10.0, 10.0]]))
    torch.testing.assert_close(PerToken(3).fit(Statistics({}))(x_NI), torch.tensor([[1.0, -1 / 3], [10.0, 10 / 3]]))
    clipped = PerToken(3, clip=0.6).fit(Statistics({}))(x_NI)
    torch.testing.assert_close(clipped, torch.tensor([[0.6, -0.2], [6.0, 4.0]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Smooth(alpha=2), "alpha is between 0 and 1"),
        (lambda: PerToken(clip=0), "clip is above 0"),
        (lambda: Nearest(bits=16), "16 bits means not quantised"),
    ],
)
def test_mistakes(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
