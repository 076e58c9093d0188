"""The record of one evaluated bitmap, and its JSON.

The JSON is a plain list with one flat object per bitmap, in the order in which the bitmaps were given. Scores are in
percent under the names `EM` and `F1`; everything needed to repeat the measurement lies under `run`. A number that is
not finite, as the perplexity of a broken model may be, is `null` there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from switchq.evaluation.squad_score import QuestionScore
from switchq.files import write_json


@dataclass(frozen=True)
class EvalResult:
    """Scores and costs of a model at one bitmap.

    Attributes:
        bitmap: the bitmap as text, as `Bitmap.parse` reads it.
        bits: the same, one bit-width per layer in model order.
        label: what to call it in a table.
        average_bits: mean bits per quantised weight, without scales.
        adapters: whether the adapters were on.
        n_questions: questions scored; where there were none, the fields about questions are None.
        n_cut: questions whose context was cut to fit the context window.
        EM: exact match, percent.
        F1: token F1, percent.
        HasAns_exact: v2.0 only: exact match over the answerable questions, percent; the others alike.
        answer_perplexity: exp of the mean negative log-likelihood per token of the first gold answer and its eos.
        text_perplexity: perplexity per token, by name of the text.
        weight_mb: size of the weights at this bitmap, MB (10^6 bytes).
        weight_parts_mb: the same, split into codes, scales, adapters and unquantised.
        peak_memory_mb: peak memory, MB.
        peak_memory_of: what that is the peak of: `cuda` (allocated on the GPU) or `resident` (RAM of the process).
        tokens_per_s: generated tokens per second, reading the prompts included.
        latency_ms: mean generation time per question at this batch size, milliseconds.
        run: everything needed to repeat the measurement.
        predictions: question id -> predicted answer; not part of the record.
        scores: scores per question; not part of the record.
    """

    bitmap: str
    bits: tuple[int, ...]
    label: str
    average_bits: float
    adapters: bool
    weight_mb: float
    weight_parts_mb: Mapping[str, float]
    peak_memory_mb: float
    peak_memory_of: str
    n_questions: int = 0
    n_cut: int = 0
    EM: float | None = None
    F1: float | None = None
    answer_perplexity: float | None = None
    tokens_per_s: float | None = None
    latency_ms: float | None = None
    text_perplexity: Mapping[str, float | None] = field(default_factory=dict)
    HasAns_exact: float | None = None
    HasAns_f1: float | None = None
    HasAns_total: int | None = None
    NoAns_exact: float | None = None
    NoAns_f1: float | None = None
    NoAns_total: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    predictions: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    scores: tuple[QuestionScore, ...] = field(default=(), repr=False, compare=False)

    def headline(self) -> dict[str, float]:
        """The scores to watch, by name: F1 and EM in percent, or the perplexity of each text."""
        scores = {"F1": self.F1, "EM": self.EM}
        texts = {f"{name} perplexity": value for name, value in self.text_perplexity.items()}
        return {name: value for name, value in {**scores, **texts}.items() if value is not None}

    def figures(self) -> dict[str, float]:
        """All scores and costs as `name/label`, for a logger."""
        named = {
            **self.headline(),
            "answer perplexity": self.answer_perplexity,
            "weight MB": self.weight_mb,
            "tokens per s": self.tokens_per_s,
        }
        return {f"{name}/{self.label}": float(value) for name, value in named.items() if value is not None}

    def record(self) -> dict[str, Any]:
        """The result as a JSON object; v2.0's fields are left out where they do not apply."""
        kept = {item.name: getattr(self, item.name) for item in fields(self) if item.compare}
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in kept.items()
            if value is not None
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `record`."""
        return cls(**{**record, "bits": tuple(record["bits"])})


def write_results(path: str | Path, results: Sequence[EvalResult]) -> None:
    """Write results as a JSON list, in order, in one step: readers see the old file or the whole new one.

    Raises:
        UserError: `path` cannot be written.
    """
    write_json(path, [result.record() for result in results])


def read_results(path: str | Path) -> list[EvalResult]:
    """Read what `write_results` wrote."""
    return [EvalResult.from_record(record) for record in json.loads(Path(path).read_text(encoding="utf-8"))]


def write_predictions(path: str | Path, result: EvalResult) -> None:
    """Write the predictions of one bitmap as the official scripts read them: an object of question id and answer.

    Raises:
        UserError: `path` cannot be written.
    """
    if result.predictions is None:
        raise ValueError("the evaluation did not keep its predictions: call evaluate(..., keep_predictions=True)")
    write_json(path, dict(result.predictions))
