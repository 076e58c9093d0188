"""SQuAD v1.1 and v2.0: exact match and F1 of generated answers."""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.prompt import Encoded, Prompt
from switchq.data.squad import Question, read_squad
from switchq.data.training_data import subset
from switchq.evaluation.decode import decode
from switchq.evaluation.squad_score import SquadMetric, without_phrase
from switchq.evaluation.tasks.task import Advance, Metric, Score, Task, shares

Asked = tuple[Question, Encoded]


@dataclass(frozen=True)
class Reading(Task):
    """Greedy answers after a prompt without examples, scored as the official scripts do.

    A data set with unanswerable questions is scored by the v2.0 rules, and has its answerable (`HasAns`) and
    unanswerable (`NoAns`) questions scored apart too.
    """

    split: str = "validation"
    batch_size: int = 16
    max_new_tokens: int = 32
    template: str = Prompt.template
    no_answer: str = Prompt.no_answer

    metrics: ClassVar = (
        Metric("F1", "higher"),
        Metric("EM", "higher"),
        Metric("HasAns F1", "higher"),
        Metric("NoAns F1", "higher"),
    )

    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[Asked]:
        questions = subset(read_squad(self.source, self.split), self.limit, 0)
        prompt = Prompt(self.template, self.no_answer)
        return list(zip(questions, prompt.encode_all(questions, tokenizer, window, self.max_new_tokens)))

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Asked], advance: Advance
    ) -> Score:
        texts = decode(
            model,
            tokenizer,
            [encoded.prompt_ids for _, encoded in examples],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            advance=advance,
        ).texts
        if not all(question.answers for question, _ in examples):
            texts = [without_phrase(text, self.no_answer) for text in texts]
        metric = SquadMetric(self.no_answer)
        found = metric.compute(
            predictions=[{"id": q.id, "prediction_text": text} for (q, _), text in zip(examples, texts)],
            references=[{"id": q.id, "answers": {"text": list(q.answers)}} for q, _ in examples],
        )
        figures = {"F1": found["f1"], "EM": found["exact_match"]}
        parts = {"HasAns F1": "HasAns_f1", "NoAns F1": "NoAns_f1"}
        figures |= {name: found[key] for name, key in parts.items() if key in found}
        items = {
            "F1": shares([score.f1 for score in metric.scores]),
            "EM": shares([score.exact_match for score in metric.scores]),
        }
        cut = sum(encoded.cut > 0 for _, encoded in examples)
        return Score(figures, items, {"questions": len(examples), "cut contexts": cut})

    def protocol(self, window: int) -> str:
        return f"zero-shot, greedy, at most {self.max_new_tokens} tokens, official normalisation, {self.template!r}"
