"""The Fisher-weighted weight error against plain autograd, one sample at a time, with gradients on the weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.bitmap import FULL
from switchq.nn import at, switch_layers
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity import fisher_scores

from .conftest import BITS, MakeSwitchable


def naive(model: PreTrainedModel, batches: list[Batch], bits: tuple[int, ...], adapters: bool = True) -> Tensor:
    """(L, W): F is stored in full, from `backward` on the weights with the model's own loss; changes `model`."""
    layers = switch_layers(model)
    weights = [layer.linear.weight.requires_grad_() for layer in layers]
    fisher = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    samples = [sample for batch in batches for sample in batch.samples()]
    for sample in samples:
        model.zero_grad()
        with at(model, FULL, adapters):
            logits_NV = model(**sample.inputs).logits[0, sample.scored_N]
        F.cross_entropy(logits_NV, sample.targets_N, reduction="sum").backward()
        for total, weight in zip(fisher, weights):
            total += weight.grad.double().square() / len(samples)
    rows = [
        [(total * (weight - layer.linear.round_weight(width)).detach().double().square()).sum() for width in bits]
        for total, weight, layer in zip(fisher, weights, layers)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def test_equals_plain_autograd(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture)
    found_LW = fisher_scores(model, batches, BITS)
    torch.testing.assert_close(found_LW, naive(model, batches, BITS), rtol=1e-4, atol=0)
    assert (found_LW[:, 0] < found_LW[:, 1]).all()
    assert (found_LW[:, 1] < found_LW[:, 2]).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"], ids=["tied", "not tied"])
def test_head_and_embeddings(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture, {"extra": ["head", "embeddings"]})
    torch.testing.assert_close(fisher_scores(model, batches, BITS), naive(model, batches, BITS), rtol=1e-4, atol=0)


def test_adapters_move_the_point_of_the_gradient(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    with_LW, bare_LW = (fisher_scores(model, batches, BITS, adapters=on) for on in (True, False))
    torch.testing.assert_close(bare_LW, naive(model, batches, BITS, adapters=False), rtol=1e-4, atol=0)
    assert not torch.isclose(with_LW, bare_LW).any()


def test_trained_base_weights(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable(options={"train_base": True})
    torch.testing.assert_close(fisher_scores(model, batches, BITS), naive(model, batches, BITS), rtol=1e-4, atol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_bfloat16_weights(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture, dtype=torch.bfloat16)
    found = fisher_scores(model, batches, BITS)
    torch.testing.assert_close(found, naive(model, batches, BITS), rtol=5e-2, atol=0)


def test_full_precision_has_no_error(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    assert fisher_scores(switchable(), batches, (16,)).count_nonzero() == 0


def test_padding_has_no_influence(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    alone = [single for batch in batches for single in batch.samples()]
    for batch in alone:
        batch.inputs["input_ids"].flatten()[len(batch.real_N) :] = 77
    torch.testing.assert_close(
        fisher_scores(model, alone, BITS), fisher_scores(model, batches, BITS), rtol=1e-4, atol=0
    )


def test_it_foresees_what_a_small_rounding_does_to_the_loss(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    """Noise of the size of the rounding error, its sign drawn anew, moves the loss as the gradients' squares say."""
    model = switchable(options={"adapters": False})
    sample = batches[0].samples()[0]
    layer = switch_layers(model)[2].linear
    expected = fisher_scores(model, [sample], (8,))[2, 0]
    error_OI, before_OI = layer.weight - layer.round_weight(8), layer.weight.clone()
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def loss() -> Tensor:
        logits_NV = model(**sample.inputs).logits[0, sample.scored_N]
        return F.cross_entropy(logits_NV.double(), sample.targets_N, reduction="sum")

    changes = []
    for _ in range(300):
        signs_OI = torch.randint(0, 2, error_OI.shape, generator=generator) * 2 - 1
        pair = []
        for side in (1, -1):
            layer.weight.data = before_OI + side * signs_OI * error_OI
            pair.append(loss())
        changes.append((pair[0] - pair[1]) / 2)
    measured = torch.stack(changes).square().mean()
    assert measured.item() == pytest.approx(expected.item(), rel=0.3)
