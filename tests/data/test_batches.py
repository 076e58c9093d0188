"""Batches: the order is a pure function of the seed, batches are of like length, padding is where it belongs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from switchq.data.batches import Example, LengthGroupedBatches, StreamLoader, TrainingCollator, left_pad

lengths_strategy = st.lists(st.integers(1, 100), min_size=1, max_size=200)


@given(lengths_strategy, st.integers(1, 9), st.integers(0, 5), st.integers(0, 5), st.integers(1, 8))
def test_an_epoch_holds_every_example_once(
    lengths: list[int], batch_size: int, seed: int, epoch: int, group: int
) -> None:
    sampler = LengthGroupedBatches(lengths, batch_size, seed, group)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sum(len(batch) != batch_size for batch in batches) <= 1


@given(lengths_strategy, st.integers(0, 3), st.data())
def test_starting_in_the_middle_gives_the_rest(lengths: list[int], epoch: int, data: st.DataObject) -> None:
    sampler = LengthGroupedBatches(lengths, 4, seed=1)
    sampler.set_epoch(epoch)
    whole = list(sampler)
    start = data.draw(st.integers(0, len(whole)))
    sampler.set_epoch(epoch, start_batch=start)
    assert list(sampler) == whole[start:]


def test_order_depends_on_seed_and_epoch_only() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 64)
    one, other = LengthGroupedBatches(lengths, 4, seed=3), LengthGroupedBatches(lengths, 4, seed=3)
    one.batches(7)
    torch.manual_seed(5)
    assert one.batches(2) == other.batches(2)
    assert one.batches(2) != one.batches(3)
    assert one.batches(2) != LengthGroupedBatches(lengths, 4, seed=4).batches(2)


def test_golden_order() -> None:
    """A checkpoint resumed by a later version must find the same batches."""
    assert LengthGroupedBatches([5, 1, 4, 2, 3, 9, 8], 2, seed=0).batches(1) == [[4, 2], [5], [1, 3], [0, 6]]


def padded(lengths: np.ndarray, batches: list[list[int]]) -> float:
    """Share of padding over an epoch."""
    return 1 - lengths.sum() / sum(lengths[batch].max() * len(batch) for batch in batches)


def test_grouping_saves_padding_and_still_shuffles() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.5, 4000).astype(np.int64) + 1
    grouped = LengthGroupedBatches(lengths, 16).batches(0)
    assert padded(lengths, grouped) < 0.05
    assert padded(lengths, LengthGroupedBatches(lengths, 16, group=1).batches(0)) > 0.3
    means = np.array([lengths[batch].mean() for batch in grouped])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 1, "group": 0}], ids=["size", "group"])
def test_impossible_sizes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LengthGroupedBatches([1], **arguments)


EXAMPLES: list[Example] = [{"input_ids": [i + 1] * (1 + i % 5), "labels": [i + 1] * (1 + i % 5)} for i in range(22)]


def stream(position: int | None = None, num_workers: int = 0) -> StreamLoader:
    sampler = LengthGroupedBatches([len(example["input_ids"]) for example in EXAMPLES], 4, group=2)
    given = None if position is None else lambda: position
    return StreamLoader(EXAMPLES, sampler, TrainingCollator(0), given, num_workers)


def firsts(loader: StreamLoader) -> list[list[int]]:
    return [batch["input_ids"][:, 0].tolist() for batch in loader]


@pytest.mark.parametrize("position", [0, 1, 5, 6, 7, 17])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_stream_can_be_entered_anywhere(position: int, num_workers: int) -> None:
    unbroken = stream()
    endless = [batch for _ in range(5) for batch in firsts(unbroken)]
    assert len(unbroken) == 6
    assert firsts(stream(position, num_workers)) == endless[position : position + 6]


def test_a_peek_at_the_stream_moves_on_by_one() -> None:
    loader = stream()
    first = next(iter(loader))
    assert first["input_ids"].tolist() != next(iter(loader))["input_ids"].tolist()
    assert loader.state_dict() == {"batches": 2}


def test_the_stream_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(stream())
    assert torch.equal(torch.get_rng_state(), before)
    list(DataLoader([1]))
    assert not torch.equal(torch.get_rng_state(), before)


def test_training_batches_are_padded_on_the_right() -> None:
    batch = TrainingCollator(pad_id=9)(
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    )
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[1, 2, 3], [4, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 2, 3], [4, -100, -100]],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_length_is_rounded_up_to_a_multiple() -> None:
    batch = TrainingCollator(pad_id=9, multiple=8)([{"input_ids": list(range(9)), "labels": list(range(9))}])
    assert {tuple(value.shape) for value in batch.values()} == {(1, 16)}


def test_a_teachers_distribution_is_padded_along() -> None:
    examples = [
        {
            "input_ids": [1, 2],
            "labels": [-100, 2],
            "topk_ids": [[0, 0], [2, 5]],
            "topk_logprobs": [[0, 0], [-0.5, -1.5]],
        },
        {"input_ids": [3], "labels": [3], "topk_ids": [[3, 1]], "topk_logprobs": [[-0.25, -2.0]]},
    ]
    batch = TrainingCollator(0)(examples)
    assert batch["topk_ids"].tolist() == [[[0, 0], [2, 5]], [[3, 1], [0, 0]]]
    assert batch["topk_logprobs"].tolist() == [[[0, 0], [-0.5, -1.5]], [[-0.25, -2.0], [0, 0]]]
    assert (batch["topk_ids"].dtype, batch["topk_logprobs"].dtype) == (torch.int64, torch.float32)


def test_prompts_are_padded_on_the_left() -> None:
    ids_BT, mask_BT = left_pad([[1, 2, 3], [4]], 9)
    assert ids_BT.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask_BT.tolist() == [[1, 1, 1], [0, 0, 1]]
