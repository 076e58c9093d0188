"""Measuring a model: what the search's metrics need of one bitmap on a few questions."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import FULL, Bitmap
from switchq.data.batches import IGNORED
from switchq.data.scoring_set import ScoringSet
from switchq.evaluation import answer_batches, answer_nll, decode, question_scores, without_phrase
from switchq.models import context_window, logits_at
from switchq.models.inference import eval_mode
from switchq.nn import at
from switchq.posttraining.search.metric import Metric
from switchq.posttraining.search.objective import Measurement

REFERENCE_BYTES = 5e8
"""Most bytes of full-precision log-probabilities that are kept; beyond it they are computed anew each time."""


class ModelMeasure:
    """A `Measure` of a switchable model; it leaves the model's bitmap and training flags as they were.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        questions: the search questions in their order, and how they are put.
        metric: what is measured; F1 and EM come together.

    Raises:
        UserError: a question does not fit the context window.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: ScoringSet, metric: Metric
    ) -> None:
        self.model, self.tokenizer, self.questions, self.metric = model, tokenizer, questions, metric
        limit = questions.max_length or context_window(model)
        self.encoded = questions.prompt.encode_all(questions.questions, tokenizer, limit, questions.max_new_tokens)
        self.v2 = not all(question.answers for question in questions.questions)
        self._references: dict[tuple[int, ...], Tensor] = {}
        self._kept = 0.0
        self._warm = False

    def __call__(self, bitmap: Bitmap, begin: int, end: int) -> Measurement:
        """Measure `bitmap` on the questions from `begin` to `end`."""
        with eval_mode(self.model), at(self.model, bitmap):
            if self.metric.generates:
                return self._answers(begin, end)
            started = time.perf_counter()
            sums = self._divergence(begin, end) if self.metric.name == "KL" else self._likelihood(begin, end)
            seconds = time.perf_counter() - started
        weights = [float(len(item.answer_ids)) for item in self.encoded[begin:end]]
        return Measurement({self.metric.name: sums}, weights, int(sum(weights)), seconds)

    def _answers(self, begin: int, end: int) -> Measurement:
        scoring = self.questions
        prompts = [item.prompt_ids for item in self.encoded[begin:end]]
        if not self._warm:  # kernels are chosen and memory is drawn before the clock runs
            decode(self.model, self.tokenizer, prompts[: scoring.batch_size], max_new_tokens=2)
            self._warm = True
        decoded = decode(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=scoring.max_new_tokens,
            batch_size=scoring.batch_size,
        )
        phrase = scoring.prompt.no_answer
        texts = [without_phrase(text, phrase) if self.v2 else text for text in decoded.texts]
        scores = [
            question_scores(text, question.answers, v2=self.v2, no_answer=phrase)
            for text, question in zip(texts, scoring.questions[begin:end], strict=True)
        ]
        values = {"F1": [f1 for _, f1 in scores], "EM": [exact for exact, _ in scores]}
        return Measurement(values, [1.0] * len(scores), sum(decoded.tokens), decoded.seconds)

    def _likelihood(self, begin: int, end: int) -> list[float]:
        nll = answer_nll(self.model, self.encoded[begin:end], batch_size=self.questions.batch_size)
        return [float(own.double().sum()) for own in nll]

    @torch.no_grad()
    def _divergence(self, begin: int, end: int) -> list[float]:
        """KL(full precision, current bitmap), summed over the positions that predict the answer."""
        sums = [0.0] * (end - begin)
        encoded = self.encoded[begin:end]
        for rows, batch in answer_batches(encoded, self.questions.batch_size, self.model.device):
            reference_NV = self._reference(tuple(begin + row for row in rows), batch)
            kl_N = F.kl_div(
                _log_probs(self.model, batch), reference_NV.to(self.model.device), reduction="none", log_target=True
            ).sum(-1, dtype=torch.float64)
            for row, own in zip(rows, kl_N.split([len(encoded[row].answer_ids) for row in rows])):
                sums[row] = max(0.0, float(own.sum()))
        return sums

    def _reference(self, rows: tuple[int, ...], batch: Mapping[str, Tensor]) -> Tensor:
        if rows not in self._references:
            with at(self.model, FULL):
                reference_NV = _log_probs(self.model, batch)
            size = reference_NV.numel() * reference_NV.element_size()
            if self._kept + size > REFERENCE_BYTES:
                return reference_NV
            self._kept += size
            self._references[rows] = reference_NV.cpu()
        return self._references[rows]


def _log_probs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities (N, V) float32 at the N positions that predict an answer token, in row-major order."""
    targets_BT = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return logits_at(model, inputs, targets_BT != IGNORED).float().log_softmax(-1)
