"""Calibration batches: a few samples, padded on the right, whose labels mark the tokens that count.

Of a question those are the tokens of its gold answer, eos included, given the prompt; of a window of text all tokens
but the first. Samples go into batches by length, so that little of a batch is padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from switchq.data.batches import Example, TrainingCollator, answer_example
from switchq.data.prompt import Prompt
from switchq.data.squad import Question
from switchq.data.text import window_example
from switchq.errors import UserError
from switchq.training.passes import targets


@dataclass(frozen=True)
class Batch:
    """A right-padded batch of B samples.

    Attributes:
        inputs: `input_ids` (B, T). A causal model needs no mask for padding that comes after the tokens.
        real_N: flattened positions of real tokens.
        scored_N: flattened positions that predict a token that counts.
        targets_N: those tokens.
    """

    inputs: dict[str, Tensor]
    real_N: Tensor
    scored_N: Tensor
    targets_N: Tensor

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])

    @classmethod
    def of(cls, padded: dict[str, Tensor]) -> "Batch":
        """From `input_ids`, `attention_mask` and `labels` (B, T), as `TrainingCollator` makes them."""
        inputs, scored_N, targets_N = targets(padded)
        return cls(inputs, padded["attention_mask"].flatten().nonzero().squeeze(-1), scored_N, targets_N)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, self.real_N.to(device), self.scored_N.to(device), self.targets_N.to(device))

    def samples(self) -> list["Batch"]:
        """Its samples, as batches of one, their padding kept."""
        length = self.inputs["input_ids"].shape[1]
        singles = []
        for row in range(len(self)):
            mine = self.scored_N // length == row
            real_N = self.real_N[self.real_N // length == row] - row * length
            inputs = {name: value[row : row + 1] for name, value in self.inputs.items()}
            singles.append(Batch(inputs, real_N, self.scored_N[mine] - row * length, self.targets_N[mine]))
        return singles


def question_batches(
    questions: Sequence[Question],
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    batch_size: int = 8,
) -> list[Batch]:
    """Batches of questions with their gold answers.

    Args:
        questions: at least one.
        prompt: how a question becomes text.
        tokenizer: the model's.
        max_length: most tokens of a question and its answer; longer ones lose tokens at the end of their context.
        batch_size: questions a batch.

    Raises:
        UserError: no questions, or one that does not fit.
    """
    encoded = prompt.encode_all(questions, tokenizer, max_length)
    return _batches([answer_example(one) for one in encoded], int(tokenizer.pad_token_id), batch_size)


def text_batches(windows: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> list[Batch]:
    """Batches of windows of token ids, as `text_windows` cuts them.

    Raises:
        UserError: no windows.
    """
    return _batches([window_example(list(ids)) for ids in windows], int(tokenizer.pad_token_id), batch_size)


def _batches(examples: list[Example], pad_id: int, batch_size: int) -> list[Batch]:
    if not examples:
        raise UserError("there is nothing to calibrate on: the calibration set is empty")
    if batch_size < 1:
        raise UserError(f"a calibration batch needs at least 1 sample, not {batch_size}")
    examples = sorted(examples, key=lambda example: len(example["input_ids"]), reverse=True)
    collate = TrainingCollator(pad_id)
    return [Batch.of(collate(examples[at : at + batch_size])) for at in range(0, len(examples), batch_size)]
