"""SquadData: what is trained on, what is held out, what is scored, what is reported."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from switchq.data.batches import IGNORED
from switchq.data.modules import SquadData
from switchq.data.prompt import Prompt
from switchq.errors import UserError

from .conftest import as_document, many_questions


@pytest.fixture
def make(write_squad: Callable[..., Path], model_folder: str) -> Callable[..., SquadData]:
    """A module of 40 training and 12 dev questions, set up."""
    train = str(write_squad(as_document(many_questions(40)), "train"))
    dev = str(write_squad(as_document(many_questions(12)), "dev"))

    def make(stage: str | None = None, **options: Any) -> SquadData:
        data = SquadData(model_folder, **{"train": train, "dev": dev, "holdout": 6, "batch_size": 4} | options)
        data.setup(stage)
        return data

    return make


def test_the_loss_is_on_the_answer_only(make: Callable[..., SquadData]) -> None:
    data = make(holdout=0)
    answers, prompts = set(), set()
    for batch in data.train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert labels[mask == 0].tolist() == [IGNORED] * int((mask == 0).sum())
            assert ids[labels != IGNORED].tolist() == labels[labels != IGNORED].tolist()
            answers.add(data.tokenizer.decode(labels[labels != IGNORED]))
            prompts.add(data.tokenizer.decode(ids[(labels == IGNORED) & (mask == 1)]))
    questions = many_questions(40)
    assert answers == {f"{Prompt().target(question)}<eos>" for question in questions}
    assert prompts == {Prompt().text(question) for question in questions}


def test_held_out_paragraphs_are_not_trained_on(make: Callable[..., SquadData]) -> None:
    data = make()
    held = {question.context for question in data.holdout_questions}
    trained = {data.tokenizer.decode(example["input_ids"]).partition("\nQuestion")[0] for example in data.examples}
    assert len(data.holdout_questions) == 6
    assert len(held) == 2
    assert not held & trained
    assert len(held | trained) == 10
    assert make().holdout_questions == data.holdout_questions
    assert make(seed=1).holdout_questions != data.holdout_questions


def test_loaders_give_the_whole_scoring_set_at_once(make: Callable[..., SquadData]) -> None:
    data = make(max_length=80, max_answer_tokens=20, eval_batch_size=5)
    for loader, questions in (
        (data.val_dataloader(), data.holdout_questions),
        (data.test_dataloader(), data.dev_questions),
    ):
        (scoring_set,) = loader
        assert scoring_set.questions == questions
        assert (scoring_set.batch_size, scoring_set.max_new_tokens, scoring_set.max_length) == (5, 20, 80)
        assert scoring_set.prompt == Prompt()
        assert [one.id for one in scoring_set.first(2).questions] == [one.id for one in questions[:2]]


def test_what_was_read_and_cut_is_reported(make: Callable[..., SquadData], caplog: pytest.LogCaptureFixture) -> None:
    # By name: a command that ran earlier in this process may have set this logger's own level.
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        data = make(max_length=80)
    whole = make().counts["training"]
    counts = data.counts["training"]
    cut = sum(len(Prompt().encode(q, data.tokenizer, 256)) > 80 for q in many_questions(40) if q not in held(data))
    assert (counts.sequences, counts.cut, counts.max_length) == (32, cut, 80)
    assert counts.mean_tokens == pytest.approx(sum(data.lengths) / 32)
    assert whole.cut == 0
    assert (
        f"training data: 32 sequences of {counts.mean_tokens:.0f} tokens on average, {cut} of them cut" in caplog.text
    )
    assert data.counts["held-out"].sequences == 6


def held(data: SquadData) -> list[Any]:
    contexts = {question.context for question in data.holdout_questions}
    return [question for question in many_questions(40) if question.context in contexts]


def test_limits_draw_the_same_questions_each_time(make: Callable[..., SquadData]) -> None:
    data = make(limit_train=7, limit_dev=5)
    ids = [question.id for question in data.dev_questions]
    assert (len(data.examples), len(ids)) == (7, 5)
    assert ids == [question.id for question in make(limit_dev=5).dev_questions]
    assert ids != [question.id for question in make(limit_dev=5, seed=1).dev_questions]
    assert ids == sorted(ids, key=lambda one: int(one[1:]))


def test_testing_does_not_read_the_training_data(make: Callable[..., SquadData]) -> None:
    data = make("test", train="missing.json")
    assert sum(len(batch.questions) for batch in data.test_dataloader()) == 12


def test_hyper_parameters_rebuild_the_module(make: Callable[..., SquadData]) -> None:
    data = make(limit_train=5)
    assert {type(value) for value in data.hparams.values()} <= {str, int, type(None)}
    again = SquadData(**data.hparams)
    again.setup()
    assert again.examples == data.examples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 40}, "leaves none to train on"),
        ({"holdout": -1}, "holdout must not be negative"),
        ({"limit_dev": 0}, "at least 1"),
        ({"max_length": 257}, "context window of 256"),
        ({"max_length": 20}, "without the context"),
        ({"dev": "missing.json"}, "missing.json: no such file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_options_give_one_line(
    make: Callable[..., SquadData], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_the_only_question_cannot_be_held_out(make: Callable[..., SquadData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchq.data.modules.training_split", lambda options: ([None], []))
    with pytest.raises(UserError, match="holding out 1 question leaves none to train on"):
        make(holdout=1)


def test_length_grouping_on_real_questions(shared: Path) -> None:
    """The share of a batch that is real tokens: nearly all, against a fifth where all are padded to the window."""
    squad = shared / "data" / "squad"
    data = SquadData(str(shared / "models" / "gpt2-mini"), str(squad / "train-v1.1.json"), str(squad / "dev-v1.1.json"))
    data.setup()
    batches = [batch["attention_mask"] for batch in data.train_dataloader()]
    real = sum(int(mask.sum()) for mask in batches)
    assert real / sum(mask.numel() for mask in batches) > 0.95
    assert real / (1024 * len(data.examples)) < 0.25
    assert data.counts["training"].cut == 0


def test_what_to_set_where_there_is_nothing_to_score(make: Callable[..., SquadData]) -> None:
    data = make()
    assert data.advice("val") == "set data.holdout above 0"
    assert data.advice("test") == "give data.dev a file of questions"
