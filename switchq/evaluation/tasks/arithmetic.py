"""Sums such as GSM8K's: how far the number that a model answers lies from the right one (arXiv:2110.14168).

A wrong number can be off by any amount, so the mean absolute difference stands beside the median, and a text without a
number counts in neither but in the share of questions that were answered.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.prompt import leading_special_tokens
from switchq.data.rows import read_rows
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.evaluation.decode import decode
from switchq.evaluation.tasks.task import Advance, Items, Metric, Score, Task, shares

Take = Literal["first", "last"]

LARGEST = 1e15
"""Beyond it a float64 no longer tells whole numbers apart, and a run of digits is no answer."""

Asked = tuple[list[int], float]

_NUMBER = re.compile(r"-?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\$?\.\d+")


def read_number(text: str, take: Take = "first") -> float | None:
    """The number that a text answers with: the one after `####` if that is there, else its first or last.

    >>> read_number("She makes 9 * 2 = $18 a day. #### $1,018.50")
    1018.5
    >>> read_number("none") is None
    True
    """
    _, marked, after = text.partition("####")
    found = _NUMBER.findall(after if marked else text)
    if not found:
        return None
    value = float(re.sub(r"[$,\s]", "", found[0] if marked or take == "first" else found[-1]))
    return value if abs(value) <= LARGEST else None


@dataclass(frozen=True)
class Arithmetic(Task):
    """Mean and median absolute difference, the share answered, and the share exactly right of all questions.

    Rows hold `question` and `answer`, whose number stands after `####` or is the last one in it.

    Attributes:
        take: whether the first or the last number of the text is the answer.
    """

    batch_size: int = 16
    max_new_tokens: int = 16
    template: str = "Question: {question}\nAnswer: The final answer is"
    take: Take = "first"

    metrics: ClassVar = (
        Metric("MAD", "lower", "g"),
        Metric("median AD", "lower", "g"),
        Metric("answered", "higher"),
        Metric("exact", "higher"),
    )

    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[Asked]:
        if self.template.count("{question}") != 1 or self.take not in ("first", "last"):
            raise UserError(f"task {self.name}: the template needs {{question}} once, and take is first or last")
        rows = subset(read_rows(self.source, self.split), self.limit, 0)
        read = [_sum(row, f"{self.source}, row {number}") for number, row in enumerate(rows, 1)]
        texts = [self.template.replace("{question}", question) for question, _ in read]
        first, room = leading_special_tokens(tokenizer), window - self.max_new_tokens
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        if room <= len(first):
            raise UserError(f"task {self.name}: {self.max_new_tokens} new tokens do not fit the window of {window}")
        return [(first + one[-(room - len(first)) :], gold) for one, (_, gold) in zip(ids, read)]

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Asked], advance: Advance
    ) -> Score:
        decoded = decode(
            model,
            tokenizer,
            [ids for ids, _ in examples],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            advance=advance,
        )
        return differences([read_number(text, self.take) for text in decoded.texts], [gold for _, gold in examples])

    def protocol(self, window: int) -> str:
        return (
            f"zero-shot, greedy, the {self.take} number of at most {self.max_new_tokens} tokens on one line after "
            f"{self.template!r}; differences over answered questions only"
        )


def differences(numbers: Sequence[float | None], golds: Sequence[float]) -> Score:
    """The figures of some answers, None where there was no number."""
    away = [None if number is None else abs(number - gold) for number, gold in zip(numbers, golds)]
    answered = [one for one in away if one is not None]
    items = {
        "MAD": Items(tuple(one or 0.0 for one in away), tuple(float(one is not None) for one in away)),
        "answered": shares([one is not None for one in away]),
        "exact": shares([one == 0 for one in away]),
    }
    figures = {name: one.figure() for name, one in items.items()}
    figures["median AD"] = median(answered) if answered else float("nan")
    ordered = {metric.name: figures[metric.name] for metric in Arithmetic.metrics}
    return Score(ordered, items, {"questions": len(away), "answered": len(answered)})


def _sum(row: dict[str, Any], where: str) -> tuple[str, float]:
    question, answer = row.get("question"), row.get("answer")
    gold = read_number(str(answer), "last") if isinstance(answer, str | int | float) else None
    if not isinstance(question, str) or gold is None:
        raise UserError(f"{where}: arithmetic needs 'question' and an 'answer' with a number")
    return question.strip(), gold
