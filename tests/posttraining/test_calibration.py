"""Calibration batches: what counts, what is padding, and how a batch falls apart into samples."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from switchq.data.prompt import Prompt
from switchq.data.squad import Question
from switchq.errors import UserError
from switchq.posttraining.calibration import Batch, question_batches, text_batches


@pytest.fixture
def tokenizer(character_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    character_tokenizer.pad_token = character_tokenizer.eos_token
    return character_tokenizer


def question(context: str, answer: str) -> Question:
    return Question(context, context, "Who?", (answer,))


def test_the_tokens_of_the_answer_count(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [question("Al", "Al"), question("Berta and Carl.", "Carl"), question("Dora sat", "Dora")]
    batches = question_batches(asked, Prompt(), tokenizer, 64, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 1]
    texts = [tokenizer.decode(batch.targets_N).replace(" ", "") for batch in batches]
    assert texts == ["Carl<eos>Dora<eos>", "Al<eos>"]
    for batch in batches:
        ids_N = batch.inputs["input_ids"].flatten()
        assert torch.equal(ids_N[batch.scored_N + 1], batch.targets_N)
    assert len(batches[0].real_N) == batches[0].inputs["input_ids"].numel() - len("Berta and Carl.") + len("Dora sat")


def test_all_tokens_of_a_window_but_the_first_count(tokenizer: PreTrainedTokenizerFast) -> None:
    (batch,) = text_batches([[5, 6, 7], [8, 9]], tokenizer)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.targets_N.tolist() == [6, 7, 9]
    assert batch.real_N.tolist() == [0, 1, 2, 3, 4]


def test_samples_are_the_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    (batch,) = text_batches([[5, 6, 7], [8, 9], [3, 4]], tokenizer)
    samples = batch.samples()
    assert [one.inputs["input_ids"].tolist() for one in samples] == [[[5, 6, 7]], [[8, 9, 0]], [[3, 4, 0]]]
    assert [one.targets_N.tolist() for one in samples] == [[6, 7], [9], [4]]
    assert [one.scored_N.tolist() for one in samples] == [[0, 1], [0], [0]]
    assert [one.real_N.tolist() for one in samples] == [[0, 1, 2], [0, 1], [0, 1]]


@pytest.mark.parametrize(("windows", "size"), [([], 8), ([[1, 2]], 0)], ids=["nothing", "batch size 0"])
def test_refused(windows: list[list[int]], size: int, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="calibration"):
        text_batches(windows, tokenizer, size)


def test_moves_to_a_device(tokenizer: PreTrainedTokenizerFast) -> None:
    moved: Batch = text_batches([[5, 6, 7]], tokenizer)[0].to(torch.device("meta"))
    places = [moved.inputs["input_ids"], moved.real_N, moved.scored_N, moved.targets_N]
    assert {tensor.device.type for tensor in places} == {"meta"}
