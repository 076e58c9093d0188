"""Exact match and F1 of a predicted answer, as SQuAD's official scripts define them.

Both texts are normalised (lower case, no punctuation, no articles, single spaces). Exact match asks whether they are
then equal; F1 is the harmonic mean of precision and recall over their bags of tokens. A question scores its best gold
answer. The two versions of the script part ways in one corner, a gold answer that normalises to nothing, such as "."
(there is one in the v1.1 and v2.0 development sets): v1.1 keeps it, and an empty prediction then has an exact match
of 1 but an F1 of 0; v2.0 drops it, and what is left without gold answers counts as unanswerable.
`torchmetrics.functional.text.squad` follows neither script there, so the few lines are written here.

Scripts: evaluate-v1.1.py (arXiv:1606.05250) and evaluate-v2.0.py (arXiv:1806.03822).
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf

NO_ANSWER = "unanswerable"
"""What a model says, by default, when the context holds no answer."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces.

    >>> normalise("The  Panthers' 24-10.")
    'panthers 2410'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def question_scores(
    prediction: str, answers: Sequence[str], *, v2: bool = False, no_answer: str = NO_ANSWER
) -> tuple[float, float]:
    """Exact match and F1 of one prediction, each from 0 to 1.

    Args:
        prediction: the predicted answer.
        answers: the gold answers; empty for an unanswerable question, where only an empty prediction or `no_answer`
            is right.
        v2: follow the v2.0 script, which ignores gold answers that normalise to nothing.
        no_answer: the phrase that stands for "no answer" at unanswerable questions.

    >>> question_scores("the cat sat", ["a cat", "dog"])
    (0.0, 0.6666666666666666)
    >>> question_scores("Unanswerable.", [])
    (1.0, 1.0)
    """
    predicted = normalise(prediction)
    golds = [normalise(answer) for answer in answers]
    if v2:
        golds = [gold for gold in golds if gold]
    if not golds:
        right = float(not predicted or (not answers and predicted == normalise(no_answer)))
        return right, right
    return float(predicted in golds), max(_token_f1(predicted.split(), gold.split()) for gold in golds)


def without_phrase(prediction: str, no_answer: str = NO_ANSWER) -> str:
    """What a model that was trained to say `no_answer` hands in to the v2.0 script: nothing in place of the phrase."""
    return "" if normalise(prediction) == normalise(no_answer) else prediction


def _token_f1(predicted: list[str], gold: list[str]) -> float:
    common = (Counter(predicted) & Counter(gold)).total()
    if not common:
        return 0.0
    precision = common / len(predicted)
    recall = common / len(gold)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class QuestionScore:
    """The scores of one question, from 0 to 1."""

    id: str
    exact_match: float
    f1: float
    answerable: bool


class SquadMetric(evaluate.Metric):
    """Exact match and F1 over a data set, in percent: a Hugging Face `evaluate` metric that needs no network.

    Takes `{"id", "prediction_text"}` and `{"id", "answers": {"text": [...]}}` records, in the same order. If any
    question is unanswerable, the v2.0 rules apply to all, and the result also holds `total` and `exact`, `f1` and
    `total` under the prefixes `HasAns_` and `NoAns_`, as in the official v2.0 script.

    Attributes:
        scores: after `compute`, the `QuestionScore` of each question in order (for bootstrap intervals).

    >>> metric = SquadMetric()
    >>> metric.compute(predictions=[{"id": "q", "prediction_text": "a cat"}],
    ...                references=[{"id": "q", "answers": {"text": ["The cat!"]}}])
    {'exact_match': 100.0, 'f1': 100.0}
    """

    def __init__(self, no_answer: str = NO_ANSWER, **kwargs: Any) -> None:
        self.no_answer = no_answer
        self.scores: tuple[QuestionScore, ...] = ()
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Exact match and F1 of extractive question answering, as SQuAD's official scripts define them.",
            citation="arXiv:1606.05250, arXiv:1806.03822",
            inputs_description="predictions: records of id and prediction_text; references: records of id and answers",
            features=Features(
                predictions={"id": Value("string"), "prediction_text": Value("string")},
                references={"id": Value("string"), "answers": {"text": ListOf(Value("string"))}},
            ),
        )

    def _build_data_dir(self) -> str:
        """Where predictions are kept on disk; none is made for a metric in memory, so a read-only home will do."""
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    def _compute(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        golds = [list(reference["answers"]["text"]) for reference in references]
        v2 = not all(golds)
        scores = []
        for prediction, reference, answers in zip(predictions, references, golds, strict=True):
            if prediction["id"] != reference["id"]:
                raise ValueError(f"prediction {prediction['id']!r} stands beside reference {reference['id']!r}")
            exact, f1 = question_scores(prediction["prediction_text"], answers, v2=v2, no_answer=self.no_answer)
            scores.append(QuestionScore(reference["id"], exact, f1, bool(answers)))
        self.scores = tuple(scores)
        return summarise(self.scores)


def summarise(scores: Sequence[QuestionScore]) -> dict[str, float]:
    """Means in percent over question scores, under the names that `SquadMetric` returns."""
    exact, f1 = _means(scores)
    result = {"exact_match": exact, "f1": f1}
    if all(score.answerable for score in scores):
        return result
    result["total"] = len(scores)
    for prefix, answerable in (("HasAns", True), ("NoAns", False)):
        if part := [score for score in scores if score.answerable == answerable]:
            exact, f1 = _means(part)
            result |= {f"{prefix}_exact": exact, f"{prefix}_f1": f1, f"{prefix}_total": len(part)}
    return result


def _means(scores: Iterable[QuestionScore]) -> tuple[float, float]:
    pairs = [(score.exact_match, score.f1) for score in scores]
    exact, f1 = zip(*pairs, strict=True)
    return 100 * sum(exact) / len(pairs), 100 * sum(f1) / len(pairs)
