"""MSE and MAE of layer outputs against one forward per layer and width."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.nn import at, switch_layers
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity import output_errors

from .conftest import BITS, MakeSwitchable, only


@torch.no_grad()
def naive(model: PreTrainedModel, batches: list[Batch], bits: tuple[int, ...], adapters: bool = True) -> Tensor:
    """(2, L, W): the whole model forward for each layer and width, and the layer's output picked out."""
    layers = switch_layers(model)

    def output(index: int, width: int, batch: Batch) -> Tensor:
        layer, kept = layers[index], []
        if layer.name == "lm_head":  # in full precision, a tied one has the input that unquantised embeddings give
            hidden_NI = model.base_model(**batch.inputs).last_hidden_state.flatten(0, 1)[batch.scored_N]
            with at(model, only(model, index, width), adapters):
                return model.lm_head(hidden_NI).double()
        hook = (layer.lora or layer.linear).register_forward_hook(lambda m, a, y: kept.append(y))
        with at(model, only(model, index, width), adapters):
            model(**batch.inputs)
        hook.remove()
        return kept[0].flatten(0, -2).double()[batch.real_N]

    result = torch.zeros(2, len(layers), len(bits), dtype=torch.float64)
    for index in range(len(layers)):
        for place, width in enumerate(bits):
            errors = torch.cat([(output(index, width, b) - output(index, 16, b)).flatten() for b in batches])
            result[:, index, place] = torch.stack([errors.square().mean(), errors.abs().mean()])
    return result


def test_equals_a_forward_per_pair(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture)
    mse_LW, mae_LW = output_errors(model, batches, BITS)
    expected = naive(model, batches, BITS)
    torch.testing.assert_close(torch.stack([mse_LW, mae_LW]), expected, rtol=1e-5, atol=1e-12)
    assert (mse_LW[:, 0] < mse_LW[:, 2]).all()


def test_adapters_matter(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    with_LW, without_LW = (output_errors(model, batches, BITS, adapters=on)[0] for on in (True, False))
    torch.testing.assert_close(without_LW, naive(model, batches, BITS, adapters=False)[0], rtol=1e-5, atol=1e-12)
    assert not torch.isclose(with_LW[:, 1:], without_LW[:, 1:]).any()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"], ids=["tied", "not tied"])
def test_head_and_embeddings(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture, {"extra": ["head", "embeddings"]})
    assert "lm_head" in [layer.name for layer in switch_layers(model)]
    errors = torch.stack(output_errors(model, batches, BITS))
    torch.testing.assert_close(errors, naive(model, batches, BITS), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_bfloat16_weights(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture, dtype=torch.bfloat16)
    found = torch.stack(output_errors(model, batches, BITS))
    torch.testing.assert_close(found, naive(model, batches, BITS), rtol=1e-2, atol=1e-9)


def test_full_precision_has_no_error(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    assert torch.stack(output_errors(switchable(), batches, (16,))).count_nonzero() == 0


def test_widths_that_were_not_prepared(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    lean, full = (switchable(options={"bits": bits, "adapters": False}) for bits in ([8], [8, 5, 3]))
    torch.testing.assert_close(
        torch.stack(output_errors(lean, batches, (5, 3))), torch.stack(output_errors(full, batches, (5, 3)))
    )


def test_padding_has_no_influence(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    alone = [single for batch in batches for single in batch.samples()]
    for batch in alone:
        batch.inputs["input_ids"].flatten()[len(batch.real_N) :] = 77
    torch.testing.assert_close(
        torch.stack(output_errors(model, alone, BITS)),
        torch.stack(output_errors(model, batches, BITS)),
        rtol=1e-5,
        atol=1e-12,
    )


def test_broken_weights_give_infinite_scores(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    switch_layers(model)[3].linear.bias.data[0] = torch.nan
    mse_LW, _ = output_errors(model, batches, BITS)
    assert mse_LW[3].isinf().all()
    assert mse_LW[:3].isfinite().all()
