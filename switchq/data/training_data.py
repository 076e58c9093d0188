"""What the data modules share: a tokenizer, a limit on length, and the endless stream of training batches."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from switchq.data.batches import Example, LengthGroupedBatches, Share, StreamLoader, TrainingCollator
from switchq.data.generated import GeneratedExamples
from switchq.data.scoring_set import ScoringSet
from switchq.errors import UserError, check_unchanged
from switchq.models import context_window, load_tokenizer
from switchq.words import count_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")

DRAWN = ("batch_size", "seed")
"""Options that say which examples a batch has; a run that goes on counts batches."""


@dataclass(frozen=True)
class Counts:
    """How many sequences there are, their mean tokens, and how many were cut to fit `max_length` tokens."""

    sequences: int
    mean_tokens: float
    cut: int
    max_length: int

    def __str__(self) -> str:
        fit = f"{self.cut:,} of them cut to fit {self.max_length:,}" if self.cut else f"all fit {self.max_length:,}"
        return f"{count_of(self.sequences, 'sequence')} of {self.mean_tokens:,.0f} tokens on average, {fit}"


class TrainingData(LightningDataModule):
    """What the two modules share: the tokenizer, the length limit, the stream of training batches.

    A subclass has the hyper-parameters `tokenizer`, `batch_size`, `max_length`, `pad_multiple`, `seed` and
    `num_workers`, and its `setup` sets `examples` and `lengths`.

    Attributes:
        examples: the training sequences.
        lengths: tokens of each.
        counts: what `setup` has read so far, by name (`training`, `held-out`, `dev`); each is also logged as one line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.examples: Sequence[Example] = ()
        self.lengths: Sequence[int] | np.ndarray = ()
        self.counts: dict[str, Counts] = {}

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer, with a pad token."""
        return load_tokenizer(self.hparams["tokenizer"])

    @cached_property
    def max_length(self) -> int:
        """Most tokens of a sequence."""
        window, asked = context_window(self.hparams["tokenizer"]), self._asked_length
        if asked is not None and not 2 <= asked <= window:
            raise UserError(
                f"A length of {asked} tokens is not between 2 and the model's context window of {window} tokens."
            )
        return asked or window

    @property
    def _asked_length(self) -> int | None:
        length: int | None = self.hparams["max_length"]
        return length

    @property
    def collator(self) -> TrainingCollator:
        """Makes training batches, padded on the right: of each batch this device's share."""
        share = Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)
        return TrainingCollator(int(self.tokenizer.pad_token_id), self.hparams["pad_multiple"], share)

    def train_dataloader(self) -> StreamLoader:
        """Length-grouped training batches, from the one on that the Trainer has not processed yet."""
        sampler = LengthGroupedBatches(self.lengths, self.hparams["batch_size"], self.hparams["seed"])
        position = None if self.trainer is None else self._batches_processed
        return StreamLoader(self.examples, sampler, self.collator, position, self.hparams["num_workers"])

    @cached_property
    def train_sha256(self) -> str:
        """SHA-256 of the training sequences in their order, after `setup`."""
        digest = hashlib.sha256(np.asarray(self.lengths, dtype=np.int64).tobytes())
        for example in self.examples:
            for name in sorted(example):
                digest.update(np.ascontiguousarray(example[name]).tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the training data, and of how batches are drawn from them."""
        drawn = {name: self.hparams[name] for name in DRAWN}
        return {"train_sha256": self.train_sha256} | drawn if len(self.examples) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that training goes on with the data that it began with, and with the batches that come next.

        Raises:
            UserError: they are others.
        """
        check_unchanged("data", state_dict, {name: self.hparams[name] for name in DRAWN})
        before = state_dict.get("train_sha256")
        if before is not None and len(self.examples) and before != self.train_sha256:
            raise UserError(
                f"the training data {self.hparams['train']} is not what the checkpoint was trained on (it has changed, "
                f"or the options that choose from it have): put it back, or start anew without --ckpt_path"
            )

    @abstractmethod
    def scoring_set(self, split: Literal["val", "test"]) -> ScoringSet:
        """What to watch the training with (`val`), and what to score before and after it (`test`); after `setup`."""

    @abstractmethod
    def advice(self, split: Literal["val", "test"]) -> str:
        """Which option to set where `scoring_set(split)` has nothing to score."""

    def val_dataloader(self) -> "DataLoader[ScoringSet] | list[ScoringSet]":
        """One batch: the whole of `scoring_set("val")`, which is batched when it is scored; none if it is empty."""
        return _whole(self.scoring_set("val"))

    def test_dataloader(self) -> "DataLoader[ScoringSet] | list[ScoringSet]":
        """One batch: the whole of `scoring_set("test")`; none if it is empty."""
        return _whole(self.scoring_set("test"))

    def _batches_processed(self) -> int:
        assert self.trainer is not None
        return int(cast(Any, self.trainer.fit_loop.epoch_loop.batch_progress.total).processed)

    def _train_on_generated(self, folder: str) -> None:
        generated = GeneratedExamples(folder, self.max_length, len(self.tokenizer))
        self.examples, self.lengths = generated, generated.lengths
        self._count("training", generated.lengths, generated.cut)

    def _add_generated(self, folder: str) -> None:
        """What all examples have in common can be batched together: stored predictions are left out."""
        generated = GeneratedExamples(folder, self.max_length, len(self.tokenizer))
        added = [{name: one[name] for name in ("input_ids", "labels")} for one in generated]
        self.examples, self.lengths = [*self.examples, *added], [*self.lengths, *generated.lengths]
        self._count("generated", generated.lengths, generated.cut)

    def _count(self, name: str, lengths: Sequence[int] | np.ndarray, cut: int = 0) -> None:
        if len(lengths):
            self.counts[name] = Counts(len(lengths), float(np.mean(lengths)), cut, self.max_length)
            rank_zero_info(f"{name} data: {self.counts[name]}")


def _whole(scoring_set: ScoringSet) -> "DataLoader[ScoringSet] | list[ScoringSet]":
    if not scoring_set:
        return []
    return DataLoader(cast("Dataset[ScoringSet]", [scoring_set]), batch_size=None)


def subset(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """`limit` of the items, drawn at random, in their order."""
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise UserError(f"a limit of {limit} leaves no data: it must be at least 1.")
    return [items[i] for i in sorted(np.random.default_rng(seed).permutation(len(items))[:limit])]
