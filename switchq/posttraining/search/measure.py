"""Measuring a model: what the search's metrics need of one bitmap on a few questions."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import FULL, Bitmap
from switchq.data.batches import IGNORED
from switchq.data.scoring_set import ScoringSet
from switchq.evaluation import (
    answer_batch,
    answer_batches,
    answer_nll,
    answer_rows,
    decode,
    question_scores,
    without_phrase,
)
from switchq.models import context_window, logits_at
from switchq.models.inference import eval_mode
from switchq.nn import at
from switchq.nn.merged import merged
from switchq.parallel import alone, split_map
from switchq.posttraining.search.metric import Metric
from switchq.posttraining.search.objective import Measurement

REFERENCE_BYTES = 5e8
"""Most bytes of full-precision log-probabilities that are kept; beyond it they are computed anew for each batch."""


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
        self._references: list[Tensor] | None = None
        self._warm = False

    def __call__(self, bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        """Measure `bitmap` on the questions at `rows`."""
        with eval_mode(self.model), at(self.model, bitmap), merged(self.model):
            if self.metric.generates:
                return self._answers(rows)
            started = time.perf_counter()
            sums = self._divergence(rows) if self.metric.name == "KL" else self._likelihood(rows)
            seconds = time.perf_counter() - started
        weights = [float(len(self.encoded[row].answer_ids)) for row in rows]
        return Measurement({self.metric.name: sums}, weights, int(sum(weights)), seconds)

    def _answers(self, rows: Sequence[int]) -> Measurement:
        scoring = self.questions
        prompts = [self.encoded[row].prompt_ids for row in rows]
        if not self._warm:  # kernels are chosen and memory is drawn before the clock runs
            with alone():
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
            question_scores(text, scoring.questions[row].answers, v2=self.v2, no_answer=phrase)
            for text, row in zip(texts, rows, strict=True)
        ]
        values = {"F1": [f1 for _, f1 in scores], "EM": [exact for exact, _ in scores]}
        return Measurement(values, [1.0] * len(scores), sum(decoded.tokens), decoded.seconds)

    def _likelihood(self, rows: Sequence[int]) -> list[float]:
        chosen = [self.encoded[row] for row in rows]
        nll = answer_nll(self.model, chosen, batch_size=self.questions.batch_size)
        return [float(own.double().sum()) for own in nll]

    @torch.no_grad()
    def _divergence(self, rows: Sequence[int]) -> list[float]:
        """KL(full precision, current bitmap), summed over the positions that predict the answer."""
        if self._references is None:
            self._references = self._all_references()
        sums = [0.0] * len(rows)
        chosen = [self.encoded[row] for row in rows]
        batches = answer_rows(chosen, self.questions.batch_size)

        def of_batch(places: list[int]) -> list[float]:
            batch = answer_batch(chosen, places, self.model.device)
            if self._references:
                reference_NV = torch.cat([self._references[rows[place]] for place in places]).to(self.model.device)
            else:
                reference_NV = self._reference(batch)
            kl_N = F.kl_div(_log_probs(self.model, batch), reference_NV, reduction="none", log_target=True).sum(
                -1, dtype=torch.float64
            )
            return [
                max(0.0, float(own.sum())) for own in kl_N.split([len(chosen[place].answer_ids) for place in places])
            ]

        for places, found in zip(batches, split_map(of_batch, batches), strict=True):
            for place, own in zip(places, found, strict=True):
                sums[place] = own
        return sums

    def _all_references(self) -> list[Tensor]:
        """Log-probabilities (N, V) of each question, N tokens in its answer; none if they take too much room."""
        lengths = [len(item.answer_ids) for item in self.encoded]
        references: dict[int, Tensor] = {}
        for places, batch in answer_batches(self.encoded, self.questions.batch_size, self.model.device):
            whole_NV = self._reference(batch).cpu()
            if sum(lengths) * whole_NV[0].numel() * whole_NV.element_size() > REFERENCE_BYTES:
                return []
            references.update(zip(places, whole_NV.split([lengths[place] for place in places])))
        return [references[row] for row in range(len(lengths))]

    def _reference(self, batch: Mapping[str, Tensor]) -> Tensor:
        with at(self.model, FULL):
            return _log_probs(self.model, batch)


def _log_probs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities (N, V) float32 at the N positions that predict an answer token, in row-major order."""
    targets_BT = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return logits_at(model, inputs, targets_BT != IGNORED).float().log_softmax(-1)
