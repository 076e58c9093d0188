"""ARC and other multiple choice: the answer that the model finds likeliest after the question (arXiv:1803.05457)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.prompt import Encoded
from switchq.data.rows import read_rows
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.evaluation.tasks.likelihood import encode_continuations, likelihoods
from switchq.evaluation.tasks.task import Advance, Metric, Score, Task, pad_id, shares


@dataclass(frozen=True)
class Choice:
    """A question with its answers in tokens, the characters of each, and which is right."""

    answers: tuple[Encoded, ...]
    lengths: tuple[int, ...]
    gold: int


@dataclass(frozen=True)
class MultipleChoice(Task):
    """Accuracy and macro F1 of the likeliest answer, and accuracy by the log-likelihood per character.

    The classes of macro F1 are the places of the answers (A, B, ...) that are right or predicted somewhere. Rows hold
    `question`, and either `choices` with `text` and `label` and an `answerKey`, or a list of `choices` and `gold`.
    """

    batch_size: int = 16
    template: str = "Question: {question}\nAnswer:"

    metrics: ClassVar = (
        Metric("accuracy", "higher"),
        Metric("macro F1", "higher"),
        Metric("accuracy per character", "higher"),
    )

    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[Choice]:
        if self.template.count("{question}") != 1:
            raise UserError(f"task {self.name}: the template needs {{question}} exactly once")
        rows = subset(read_rows(self.source, self.split), self.limit, 0)
        read = [read_choice(row, f"{self.source}, row {number}") for number, row in enumerate(rows, 1)]
        pairs = [
            (self.template.replace("{question}", question), f" {text}") for question, texts, _ in read for text in texts
        ]
        encoded = iter(encode_continuations(pairs, tokenizer, window))
        return [
            Choice(tuple(next(encoded) for _ in texts), tuple(len(text) for text in texts), gold)
            for _, texts, gold in read
        ]

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Choice], advance: Advance
    ) -> Score:
        answers = [answer for one in examples for answer in one.answers]
        share = len(examples) / len(answers)
        found = iter(
            likelihoods(
                model,
                answers,
                pad=pad_id(tokenizer),
                batch_size=self.batch_size,
                advance=lambda done: advance(done * share),
            )
        )
        predicted, by_character = [], []
        for one in examples:
            logs = [next(found).log_likelihood for _ in one.answers]
            predicted.append(_best(logs))
            by_character.append(_best([log / length for log, length in zip(logs, one.lengths)]))
        golds = [one.gold for one in examples]
        items = {
            "accuracy": shares([one == gold for one, gold in zip(predicted, golds)]),
            "accuracy per character": shares([one == gold for one, gold in zip(by_character, golds)]),
        }
        figures = {name: one.figure() for name, one in items.items()}
        figures["macro F1"] = 100 * macro_f1(predicted, golds)
        return Score({metric.name: figures[metric.name] for metric in self.metrics}, items, {"questions": len(golds)})

    def protocol(self, window: int) -> str:
        return f"zero-shot, the answer of the largest summed log-likelihood after {self.template!r}"


def macro_f1(predicted: Sequence[int], golds: Sequence[int]) -> float:
    """The mean F1 over all classes that occur on either side, from 0 to 1.

    >>> macro_f1([0, 0, 1], [0, 1, 1])
    0.6666666666666666
    """
    scores = []
    for label in sorted({*predicted, *golds}):
        right = sum(one == gold == label for one, gold in zip(predicted, golds))
        named = sum(one == label for one in predicted) + sum(gold == label for gold in golds)
        scores.append(2 * right / named)
    return sum(scores) / len(scores)


def read_choice(row: dict[str, Any], where: str) -> tuple[str, list[str], int]:
    """Question, answers, and the place of the right one, in either layout.

    Raises:
        UserError: another layout, fewer than two answers, or no right one.
    """
    choices: Any = row.get("choices")
    texts: Any
    if isinstance(choices, dict):
        texts, labels, key = choices.get("text"), choices.get("label"), row.get("answerKey")
        gold = labels.index(key) if isinstance(labels, list) and key in labels else None
    else:
        texts, gold = choices, row.get("gold", row.get("answer"))
    question = row.get("question")
    fits = isinstance(texts, list) and len(texts) > 1 and all(isinstance(text, str) and text.strip() for text in texts)
    if not isinstance(question, str) or not fits or not isinstance(gold, int) or not 0 <= gold < len(texts):
        raise UserError(
            f"{where}: multiple choice needs 'question', 'choices' (a list, or 'text' and 'label') and 'gold' or "
            f"'answerKey'"
        )
    return question.strip(), [text.strip() for text in texts], gold


def _best(values: Sequence[float]) -> int:
    """The place of the largest value; nan is never the largest."""
    return max(range(len(values)), key=lambda i: (values[i] == values[i], values[i]))
