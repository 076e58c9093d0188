"""LAMBADA: the last word of a passage, to be predicted from all that comes before it (arXiv:1606.06031)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.prompt import Encoded
from switchq.data.rows import read_rows
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.evaluation.tasks.likelihood import encode_continuations, likelihoods
from switchq.evaluation.tasks.task import Advance, Items, Metric, Score, Task, pad_id, shares


@dataclass(frozen=True)
class LastWord(Task):
    """Whether greedy decoding gives the last word, and exp of the mean negative log-likelihood of a word.

    Rows hold a `text`, whose last word is the target, or a `query` and its `answers_text`.
    """

    batch_size: int = 16

    metrics: ClassVar = (Metric("accuracy", "higher"), Metric("word perplexity", "lower", "perplexity"))

    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[Encoded]:
        rows = subset(read_rows(self.source, self.split), self.limit, 0)
        pairs = [_passage(row, f"{self.source}, row {number}") for number, row in enumerate(rows, 1)]
        return encode_continuations(pairs, tokenizer, window)

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Encoded], advance: Advance
    ) -> Score:
        found = likelihoods(model, examples, pad=pad_id(tokenizer), batch_size=self.batch_size, advance=advance)
        accuracy = shares([one.greedy for one in found])
        words = Items(tuple(-one.log_likelihood for one in found), scale="exp")
        items = {"accuracy": accuracy, "word perplexity": words}
        return Score({name: one.figure() for name, one in items.items()}, items, {"questions": len(found)})

    def protocol(self, window: int) -> str:
        return "last word right if every token of it is the likeliest; passages cut at the start to fit the window"


def _passage(row: dict[str, Any], where: str) -> tuple[str, str]:
    """The context and the last word with its space."""
    if isinstance(row.get("text"), str):
        context, _, word = row["text"].strip().rpartition(" ")
    else:
        answers = row.get("answers_text")
        context, word = row.get("query"), answers[0] if isinstance(answers, list) and answers else None
    if not isinstance(context, str) or not isinstance(word, str) or not context.strip() or not word.strip():
        raise UserError(f"{where}: last-word prediction needs 'text', or 'query' and 'answers_text'")
    return context.rstrip(), f" {word.strip()}"
