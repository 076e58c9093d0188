"""KL of the final logits, resumed block by block, against whole forwards."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.nn import at, get_switch
from switchq.nn.norm import is_own_norm
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity import divergences, output_errors
from switchq.posttraining.sensitivity.divergence import resumed_blocks, spread

from .conftest import BITS, MakeSwitchable, only


@torch.no_grad()
def naive(model: PreTrainedModel, batches: list[Batch], bits: tuple[int, ...], adapters: bool = True) -> Tensor:
    """(L, W): two whole forwards with all logits, and sum p (log p - log q) written out."""
    names = get_switch(model).names

    def log_probabilities(index: int, width: int) -> Tensor:
        with at(model, only(model, index, width), adapters):
            return (
                torch.cat([model(**b.inputs).logits.flatten(0, 1)[b.scored_N] for b in batches])
                .double()
                .log_softmax(-1)
            )

    reference_NV = log_probabilities(0, 16)
    rows = [
        [(reference_NV.exp() * (reference_NV - log_probabilities(i, b))).sum(-1).mean() for b in bits]
        for i in range(len(names))
    ]
    return torch.tensor(rows, dtype=torch.float64)


def test_norms_of_every_width(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    """A layer that was looked at leaves its block's norm as it was."""
    model = switchable("gpt2", {"own_norms": True})
    with torch.random.fork_rng(), torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_own_norm(name):
                parameter += 0.1 * torch.randn_like(parameter)
    torch.testing.assert_close(divergences(model, batches, BITS), naive(model, batches, BITS), rtol=1e-3, atol=1e-9)
    once, twice = (output_errors(model, batches[:1] * times, BITS)[0] for times in (1, 2))
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=1e-12)


def test_equals_whole_forwards(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture)
    torch.testing.assert_close(divergences(model, batches, BITS), naive(model, batches, BITS), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"], ids=["tied", "not tied"])
def test_head_and_embeddings(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture, {"extra": ["head", "embeddings"]})
    found_LW = divergences(model, batches, BITS)
    torch.testing.assert_close(found_LW, naive(model, batches, BITS), rtol=1e-3, atol=1e-9)
    assert (found_LW[:, 2] > 0).all()


def test_adapters_matter(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    bare_LW = divergences(model, batches, BITS, adapters=False)
    torch.testing.assert_close(bare_LW, naive(model, batches, BITS, adapters=False), rtol=1e-3, atol=1e-9)
    assert not torch.isclose(bare_LW[:, 2], divergences(model, batches, BITS)[:, 2]).any()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_bfloat16_weights(switchable: MakeSwitchable, architecture: str, batches: list[Batch]) -> None:
    model = switchable(architecture, dtype=torch.bfloat16)
    found = divergences(model, batches, BITS)
    torch.testing.assert_close(found, naive(model, batches, BITS), rtol=1e-2, atol=1e-9)


def test_full_precision_does_not_diverge(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    assert divergences(switchable(), batches, (16,)).count_nonzero() == 0


def test_padding_has_no_influence(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    alone = [single for batch in batches for single in batch.samples()]
    for batch in alone:
        batch.inputs["input_ids"].flatten()[len(batch.real_N) :] = 77
    torch.testing.assert_close(divergences(model, alone, BITS), divergences(model, batches, BITS), rtol=1e-3, atol=1e-9)


def test_a_broken_layer_is_infinitely_far(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    get_switch(model).layers[3].linear.weight_2bit.fill_(torch.nan)
    found_LW = divergences(model, batches, BITS)
    assert found_LW.isinf().nonzero().tolist() == [[3, 2]]


def test_few_positions(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable()
    some = [Batch(b.inputs, b.real_N, spread(b.scored_N, 2), b.targets_N) for b in batches]
    torch.testing.assert_close(
        divergences(model, batches, BITS, positions=2), naive(model, some, BITS), rtol=1e-3, atol=1e-9
    )


@pytest.mark.parametrize(("most", "kept"), [(1, [3]), (2, [3, 9]), (3, [3, 6, 9]), (9, [3, 4, 6, 8, 9])])
def test_positions_are_spread_evenly(most: int, kept: list[int]) -> None:
    assert spread(torch.tensor([3, 4, 6, 8, 9]), most).tolist() == kept


def test_the_progress_adds_up_to_what_was_announced(switchable: MakeSwitchable, batches: list[Batch]) -> None:
    model = switchable(n_layer=3)
    done: list[int] = []
    divergences(model, batches, BITS, advance=done.append)
    assert sum(done) == resumed_blocks(model, BITS) * len(batches)
