"""Every task against a loop over the model's own logits, one example at a time."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.errors import UserError
from switchq.evaluation.tasks import (
    TASKS,
    Arithmetic,
    LastWord,
    MultipleChoice,
    Perplexity,
    Reading,
    Score,
    Speed,
    Task,
    task_from_dict,
)
from switchq.evaluation.tasks.arithmetic import differences, read_number
from switchq.evaluation.tasks.multiple_choice import macro_f1

Tiny = Callable[..., PreTrainedModel]

WINDOW = 64


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Score:
    done: list[float] = []
    examples = task.examples(tokenizer, WINDOW)
    found = task.score(model, tokenizer, examples, done.append)
    assert sum(done) == pytest.approx(len(examples))
    assert found.figures.keys() <= {metric.name for metric in task.metrics}
    for name, items in found.items.items():
        assert items.figure() == pytest.approx(found.figures[name])
    return found


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """(T - 1, V): of every next token, by the whole model."""
    return model(torch.tensor([list(ids)])).logits[0, :-1].double().log_softmax(-1)


def continuation(model: PreTrainedModel, context: list[int], answer: list[int]) -> tuple[float, bool]:
    """Summed log-likelihood and whether each token is the likeliest, token by token."""
    total, greedy = 0.0, True
    for place in range(len(answer)):
        logs = log_probabilities(model, [*context, *answer[: place + 1]])[-1]
        total += float(logs[answer[place]])
        greedy &= int(logs.argmax()) == answer[place]
    return total, greedy


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("stride", [None, 5, 1], ids=["whole", "stride 5", "stride 1"])
def test_perplexity(
    architecture: str, stride: int | None, tiny: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny(architecture)
    source = lines(tmp_path / "a.jsonl", [{"text": "The red cat sat."}, {"text": "Snow is white"}])
    found = run(Perplexity("text", source, window=16, stride=stride), model, character_tokenizer)
    ids = character_tokenizer("The red cat sat.")["input_ids"] + [0] + character_tokenizer("Snow is white")["input_ids"]
    total, count = 0.0, 0
    counted: set[int] = set()
    step = stride or 16
    for start in range(0, len(ids), step):
        window = ids[start : start + 16]
        if len(window) < 2 or (start and len(window) <= 16 - step):
            continue
        logs = log_probabilities(model, window)
        for place in range(1, len(window)):
            if start + place not in counted:
                counted.add(start + place)
                total, count = total - float(logs[place - 1, window[place]]), count + 1
    assert found.counts["tokens"] == count
    assert found.figures["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    if stride is not None:
        assert count == len(ids) - 1


def test_how_documents_are_joined_changes_the_tokens(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}, {"text": "three"}])
    by_eos = Perplexity("a", source, window=16).examples(character_tokenizer, WINDOW)
    by_blank = Perplexity("a", source, window=16, join="blank", documents=2).examples(character_tokenizer, WINDOW)
    assert character_tokenizer.decode(by_eos[0]).replace(" ", "") == "one<eos>two<eos>three"
    assert by_blank == [character_tokenizer("one\n\ntwo")["input_ids"]]
    assert "end-of-text token" in Perplexity("a", source).protocol(WINDOW)
    assert "blank lines" in Perplexity("a", "owner/name").protocol(WINDOW)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_last_word(architecture: str, tiny: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny(architecture)
    passages = ["The cat sat on the mat", "Snow is white", "x " * 40 + "end"]
    greedy = log_probabilities(model, character_tokenizer("Aha ")["input_ids"] + [0])[-1].argmax()
    rows = [
        *({"text": text} for text in passages),
        {"query": "Aha", "answers_text": [character_tokenizer.decode([int(greedy)])]},
    ]
    found = run(LastWord("last", lines(tmp_path / "a.jsonl", rows), batch_size=3), model, character_tokenizer)
    expected = []
    for text in [*passages, f"Aha {rows[-1]['answers_text'][0]}"]:
        context, _, word = text.rpartition(" ")
        answer = character_tokenizer(f" {word}")["input_ids"]
        ids = character_tokenizer(context)["input_ids"][-(WINDOW - len(answer)) :]
        expected.append(continuation(model, ids, answer))
    assert found.figures["accuracy"] == pytest.approx(100 * sum(right for _, right in expected) / 4)
    mean = sum(log for log, _ in expected) / 4
    assert found.figures["word perplexity"] == pytest.approx(math.exp(-mean), rel=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_multiple_choice(
    architecture: str, tiny: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny(architecture)
    asked = [("What falls?", ["snow", "a", "the sky"], 0), ("Who?", ["me", "you"], 1), ("Why?", ["so", "no", "yes"], 2)]
    rows: list[dict[str, Any]] = [{"question": q, "choices": choices, "gold": gold} for q, choices, gold in asked[:2]]
    question, choices, _ = asked[2]
    rows.append({"question": question, "choices": {"text": choices, "label": ["1", "2", "3"]}, "answerKey": "3"})
    found = run(MultipleChoice("arc", lines(tmp_path / "a.jsonl", rows), batch_size=2), model, character_tokenizer)
    predicted, by_character = [], []
    for question, choices, _ in asked:
        context = character_tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
        logs = [continuation(model, context, character_tokenizer(f" {one}")["input_ids"])[0] for one in choices]
        predicted.append(logs.index(max(logs)))
        scaled = [log / len(one) for log, one in zip(logs, choices)]
        by_character.append(scaled.index(max(scaled)))
    golds = [gold for _, _, gold in asked]
    accuracy = 100 * sum(map(int.__eq__, predicted, golds)) / 3
    assert found.figures["accuracy"] == pytest.approx(accuracy)
    assert found.figures["accuracy per character"] == pytest.approx(100 * sum(map(int.__eq__, by_character, golds)) / 3)
    assert found.figures["macro F1"] == pytest.approx(100 * macro_f1(predicted, golds))


def test_macro_f1_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        predicted, golds = torch.randint(0, 4, (2, 30), generator=generator)
        expected = float(multiclass_f1_score(predicted, golds, num_classes=4, average="macro"))
        assert macro_f1(predicted.tolist(), golds.tolist()) == pytest.approx(expected)


@torch.no_grad()
def greedy_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: list[int], count: int) -> str:
    """One token after the other, without a cache, up to eos or a newline."""
    new: list[int] = []
    for _ in range(count):
        token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id or "\n" in tokenizer.decode([token]):
            break
        new.append(token)
    return tokenizer.decode(new).strip()


def test_arithmetic(tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny_gpt2()
    rows = [{"question": f"What is {i} + {i}?", "answer": f"It is <<{i}+{i}>>\n#### {2 * i}"} for i in range(8)]
    task = Arithmetic(
        "sums", lines(tmp_path / "a.jsonl", rows), batch_size=3, max_new_tokens=8, template="Q: {question}"
    )
    found = run(task, model, character_tokenizer)
    texts = [
        greedy_text(model, character_tokenizer, character_tokenizer(f"Q: {row['question']}")["input_ids"], 8)
        for row in rows
    ]
    numbers = [read_number(text) for text in texts]
    expected = differences(numbers, [2.0 * i for i in range(8)])
    assert {**found.figures} == pytest.approx(expected.figures, nan_ok=True)


def test_differences_count_a_missing_number_in_the_answered_share_alone() -> None:
    found = differences([10.0, None, 7.0, 1000.0], [10.0, 5.0, 5.0, 0.0])
    assert found.figures == {"MAD": 334.0, "median AD": 2.0, "answered": 75.0, "exact": 25.0}
    nothing = differences([None, None], [1.0, 2.0])
    assert nothing.figures == pytest.approx(
        {"MAD": math.nan, "median AD": math.nan, "answered": 0, "exact": 0}, nan_ok=True
    )


@pytest.mark.parametrize(
    ("text", "take", "number"),
    [
        ("It is 5, not 6", "first", 5),
        ("It is 5, not 6", "last", 6),
        ("$1,234.50 a day", "first", 1234.5),
        ("2 + 2 = 5 #### -18", "last", -18),
        (".5 of it", "first", 0.5),
        ("twelve", "first", None),
        ("9" * 40, "first", None),
        ("1,5", "first", 1),
    ],
)
def test_the_number_of_a_text(text: str, take: Any, number: float | None) -> None:
    assert read_number(text, take) == number


def test_reading(tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny_gpt2()
    prompts = ["Snow is white.\nQ: Colour?\nA:", "Ann is in Rome.\nQ: Where?\nA:"]
    said = [greedy_text(model, character_tokenizer, character_tokenizer(one)["input_ids"], 4) for one in prompts]
    assert said[0]
    qas = [
        [{"id": "a", "question": "Colour?", "answers": [{"text": said[0], "answer_start": 0}], "is_impossible": False}],
        [{"id": "b", "question": "Where?", "answers": [], "is_impossible": True}],
    ]
    contexts = ["Snow is white.", "Ann is in Rome."]
    paragraphs = [{"context": context, "qas": qa} for context, qa in zip(contexts, qas)]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    task = Reading("squad", str(path), max_new_tokens=4, template="{context}\nQ: {question}\nA:")
    found = run(task, model, character_tokenizer)
    none = 100.0 * (said[1] == "")
    assert found.figures == {"F1": 50 + none / 2, "EM": 50 + none / 2, "HasAns F1": 100.0, "NoAns F1": none}


def test_speed_generates_as_many_tokens_as_asked(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("It has a red door. " * 20)
    task = Speed("speed", str(tmp_path / "a.txt"), limit=3, prompt_tokens=20, new_tokens=7)
    found = run(task, tiny_gpt2(), character_tokenizer)
    assert found.counts == {"samples": 3, "tokens": 21}
    seconds = 21 / found.figures["tokens/s"]
    assert found.figures["latency ms"] == pytest.approx(1000 * seconds / 3)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_survives_its_configuration(name: str) -> None:
    task = TASKS[name]("a name", "source.jsonl", limit=3)
    assert task_from_dict(task.to_dict()) == task


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("Perplexity", "class_path"),
        ({"class_path": "Perplexty"}, "no task 'Perplexty'; there are Perplexity, LastWord"),
        ({"class_path": "Perplexity", "init_args": {"name": "a"}}, "needs 'source'"),
        ({"class_path": "Perplexity", "init_args": {"nam": "a"}}, "no option 'nam'"),
        ({"class_path": "Perplexity", "init_args": {"name": "a/b", "source": "c"}}, "without '/'"),
        ({"class_path": "Perplexity", "init_args": {"name": "a", "source": "c", "join": "x"}}, "join must be"),
        ({"class_path": "Speed", "init_args": {"name": "a", "source": "c", "limit": 0}}, "at least 1"),
    ],
    ids=str,
)
def test_mistakes_in_a_task(content: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        task_from_dict(content)


@pytest.mark.parametrize(
    ("task", "row", "says"),
    [
        (LastWord, {"text": "word"}, "row 1: last-word prediction needs"),
        (MultipleChoice, {"question": "q", "choices": ["a", "b"], "gold": 2}, "row 1: multiple choice needs"),
        (MultipleChoice, {"question": "q", "choices": [" ", "b"], "gold": 1}, "row 1: multiple choice needs"),
        (MultipleChoice, {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}, "answerKey"),
        (Arithmetic, {"question": "q", "answer": "none"}, "row 1: arithmetic needs"),
    ],
    ids=["last word", "gold", "blank", "no key", "no number"],
)
def test_rows_of_another_layout(
    task: type[Task], row: dict[str, Any], says: str, tmp_path: Path, character_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=says):
        task("t", lines(tmp_path / "a.jsonl", [row])).examples(character_tokenizer, WINDOW)


def test_real_files_of_every_format(shared: Path) -> None:
    from switchq.models import load_tokenizer

    tokenizer, data = load_tokenizer(str(shared / "models/gpt2-micro")), shared / "data"
    for task in (
        LastWord("a", str(data / "lambada/eval.jsonl"), limit=4),
        MultipleChoice("a", str(data / "arc/ARC-Easy.validation.jsonl"), limit=4),
        MultipleChoice("a", str(data / "arc/ARC-Challenge.train.jsonl"), limit=4),
        Arithmetic("a", str(data / "gsm8k/eval.jsonl"), limit=4),
        Reading("a", str(data / "squad/dev-v2.0.json"), limit=4),
        Perplexity("a", str(data / "ag_news/eval.jsonl"), documents=500, limit=4),
    ):
        assert len(task.examples(tokenizer, 1024)) == 4
