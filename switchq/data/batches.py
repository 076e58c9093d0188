"""Batches: which examples go together, in what order, and how they are padded.

Training batches are one endless stream, `stream[n]` for n = 0, 1, ..., a pure function of the seed: epoch e of it holds
every example once, and its batches group examples of like length, so that little of a batch is padding. A resumed run
asks for the stream from batch n on, where n is the number of batches that the Trainer has already processed; nothing
else needs to be saved.

Padding is dynamic: to the longest of the batch, on the right for training, on the left for generation.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from switchq.data.prompt import Encoded

IGNORED = -100
"""Label of a position that takes no loss (the convention of transformers)."""

Example = Mapping[str, Any]
"""`input_ids` and `labels`, lists of T integers; with a teacher also `topk_ids`, `topk_logprobs`, arrays of (T, K)."""


class LengthGroupedBatches(Sampler[list[int]]):
    """Lists of indices of examples of like length, in an order that is random but a pure function of (seed, epoch).

    Each epoch draws a permutation, sorts every stretch of `group` batches of it by length, cuts the stretch into
    batches and shuffles all batches. A larger `group` wastes less on padding; 1 is plain random batches.

    Args:
        lengths: tokens of each example.
        batch_size: examples a batch; the last one may hold fewer.
        seed: of the order.
        group: batches that are sorted together.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int = 0, group: int = 50) -> None:
        if batch_size < 1 or group < 1:
            raise ValueError(f"batch_size and group must be at least 1, not {batch_size} and {group}")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.group = group
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Makes the next iteration give the batches of `epoch` from `start_batch` on."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches(self.epoch)[self.start_batch :]

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        stretch = self.group * self.batch_size
        batches: list[list[int]] = []
        for begin in range(0, len(order), stretch):
            part = order[begin : begin + stretch]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size].tolist() for i in range(0, len(part), self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]


class StreamLoader(DataLoader[Example]):
    """A DataLoader over an epoch's worth of the endless stream of training batches, from wherever the training stands.

    `position` is asked when the first batch is drawn, not before: Lightning may build the loader before it restores its
    progress (when an optimiser asks for the estimated number of steps). Epochs of the Trainer and of the stream need
    not begin together.

    Args:
        dataset: the examples.
        batch_sampler: their batches.
        collate_fn: makes a batch of a list of examples.
        position: number of batches already trained on; by default those that this loader has given.
        num_workers: loader processes.

    It has a random generator of its own, so that starting an epoch leaves the global one (dropout's) alone.
    """

    def __init__(
        self,
        dataset: Sequence[Example],
        batch_sampler: LengthGroupedBatches,
        collate_fn: Callable[[list[Example]], dict[str, Tensor]],
        position: Callable[[], int] | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            cast(Dataset[Example], dataset),
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            generator=torch.Generator(),
        )
        self._given = 0
        self.position = position or (lambda: self._given)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        sampler = cast(LengthGroupedBatches, self.batch_sampler)
        epoch, start = divmod(self.position(), len(self)) if len(self) else (0, 0)
        sampler.set_epoch(epoch, start)
        first = super().__iter__()
        sampler_rest = self._next_epoch(sampler, epoch + 1)
        for batch in itertools.islice(itertools.chain(first, sampler_rest), len(self)):
            self._given += 1
            yield batch

    def _next_epoch(self, sampler: LengthGroupedBatches, epoch: int) -> Iterator[dict[str, Tensor]]:
        sampler.set_epoch(epoch)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader can be resumed inside an epoch; the number is for the reader's eye."""
        return {"batches": self.position()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: `position` is part of the progress that Lightning restores."""


@dataclass(frozen=True)
class Share:
    """What one of several devices takes of a batch: every `count`-th example, from example `number` on.

    Where a batch is too short for all, the rest get its first example without labels: there must be something to run.
    """

    number: int = 0
    count: int = 1

    def of(self, examples: list[Example]) -> list[Example]:
        """This device's examples of a batch."""
        own = examples[self.number :: self.count]
        return own or [{**examples[0], "labels": [IGNORED] * len(examples[0]["input_ids"])}]


def counted(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch whose rows without labels are masked: no run learns of them, and what fills up a share is another's."""
    labelled_B1 = (batch["labels"] != IGNORED).any(1, keepdim=True)
    return batch | {"attention_mask": batch["attention_mask"] * labelled_B1}


class TrainingCollator:
    """Right-pads examples to a training batch.

    Gives int64 `input_ids`, `attention_mask` and `labels` of (B, T), `labels[b, t]` being `input_ids[b, t]` or -100
    where no loss is taken. Examples with a teacher add `topk_ids` (B, T, K) int64 and `topk_logprobs` (B, T, K)
    float32, the teacher's distribution for token t (aligned with the labels, meaningful only where labels != -100, zero
    elsewhere).

    Args:
        pad_id: token id to pad with.
        multiple: pads T up to a multiple of this (fewer distinct shapes for `torch.compile`, aligned shapes for tensor
            cores).
        share: of the examples; all by default.
    """

    def __init__(self, pad_id: int, multiple: int = 1, share: Share = Share()) -> None:
        self.pad_id = pad_id
        self.multiple = multiple
        self.share = share

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        examples = self.share.of(examples)
        longest = max(len(example["input_ids"]) for example in examples)
        shape = len(examples), -(-longest // self.multiple) * self.multiple
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, IGNORED),
        }
        if "topk_ids" in examples[0]:
            top_k = np.shape(examples[0]["topk_ids"])[1]
            batch["topk_ids"] = torch.zeros(*shape, top_k, dtype=torch.int64)
            batch["topk_logprobs"] = torch.zeros(*shape, top_k)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            batch["attention_mask"][row, :length] = 1
            for key in batch.keys() - {"attention_mask"}:
                batch[key][row, :length] = torch.as_tensor(np.asarray(example[key]))
        return batch


def left_pad(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Left-pads prompts for generation: token ids and attention mask, both int64 (B, T)."""
    longest = max(map(len, sequences))
    ids_BT = [[pad_id] * (longest - len(ids)) + list(ids) for ids in sequences]
    mask_BT = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in sequences]
    return torch.tensor(ids_BT, device=device), torch.tensor(mask_BT, device=device)


def answer_example(encoded: Encoded) -> Example:
    """A training example that takes its loss on the answer only."""
    return {
        "input_ids": encoded.prompt_ids + encoded.answer_ids,
        "labels": [IGNORED] * len(encoded.prompt_ids) + encoded.answer_ids,
    }
