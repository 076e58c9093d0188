"""Perplexity: exp of the mean negative log-likelihood (NLL) per token, teacher forced.

Answer perplexity takes the tokens of the first gold answer and the eos token after it, given the prompt. Text
perplexity takes every token of a window but the first, given those before it in the window. The head runs only at
positions whose next token counts; log-likelihoods are taken in float32 and averaged in float64.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from switchq.data.batches import IGNORED, TrainingCollator, answer_example
from switchq.data.prompt import Encoded
from switchq.models import logits_at
from switchq.parallel import split_map


class TokenPerplexity(MeanMetric):
    """Perplexity over all tokens it was updated with; `update` takes NLLs per token (N,).

    It does not add up what other processes were updated with: here each of them has the NLLs of all.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable", sync_on_compute=False)
        self.set_dtype(torch.float64)

    def compute(self) -> Tensor:
        """exp of the mean NLL, a float64 scalar; inf or nan for a broken model."""
        return super().compute().exp()


@torch.no_grad()
def token_nll(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """NLL (N,) float32 of the N tokens whose label is not -100, in row-major order.

    Args:
        model: a causal language model.
        input_ids: (B, T) tokens, padded on the right.
        attention_mask: (B, T), 1 at real tokens.
        labels: (B, T), the token itself or -100 where it does not count; the first column never counts.
    """
    targets_BT = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    mask_BT = targets_BT != IGNORED
    logits_NV = logits_at(model, {"input_ids": input_ids, "attention_mask": attention_mask}, mask_BT)
    return F.cross_entropy(logits_NV.float(), targets_BT[mask_BT], reduction="none")


@torch.no_grad()
def answer_nll(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    *,
    pad_id: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> list[Tensor]:
    """NLL of the first gold answers, eos included: a CPU tensor (N,) float32 per question, in the order given.

    Args:
        model: a causal language model in eval mode.
        encoded: the tokens of the questions, in any order.
        pad_id: token id to pad with; it has no influence.
        batch_size: questions per batch.
        advance: called after each batch with the number of questions done.
    """
    nll: list[Tensor] = [torch.empty(0)] * len(encoded)
    batches = answer_rows(encoded, batch_size)

    def of_batch(rows: list[int]) -> Tensor:
        return token_nll(model, **answer_batch(encoded, rows, model.device, pad_id)).cpu()

    for rows, found in zip(batches, split_map(of_batch, batches, advance, len), strict=True):
        for row, own in zip(rows, found.split([len(encoded[row].answer_ids) for row in rows])):
            nll[row] = own
    return nll


def answer_rows(encoded: Sequence[Encoded], batch_size: int) -> list[list[int]]:
    """Which questions go into each batch, longest first."""
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def answer_batch(
    encoded: Sequence[Encoded], rows: Sequence[int], device: torch.device, pad_id: int = 0
) -> dict[str, Tensor]:
    """`token_nll`'s inputs: the questions at `rows` with their first gold answers."""
    batch = TrainingCollator(pad_id)([answer_example(encoded[row]) for row in rows])
    return {name: tensor.to(device) for name, tensor in batch.items()}


def answer_batches(
    encoded: Sequence[Encoded], batch_size: int, device: torch.device, pad_id: int = 0
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Each batch in turn: which questions, and `token_nll`'s inputs."""
    for rows in answer_rows(encoded, batch_size):
        yield rows, answer_batch(encoded, rows, device, pad_id)


def answer_perplexity(model: PreTrainedModel, encoded: Sequence[Encoded], **options: Any) -> float:
    """Perplexity per token of the first gold answers, eos included; the options are those of `answer_nll`."""
    metric = TokenPerplexity()
    metric.update(torch.cat(answer_nll(model, encoded, **options)))
    return float(metric.compute())


@torch.no_grad()
def window_nll(
    model: PreTrainedModel,
    windows: Iterable[Tensor | Sequence[int]],
    overlap: int = 0,
    advance: Callable[[int], object] | None = None,
) -> Iterator[Tensor]:
    """NLL of the tokens of each window that count, (N,) float32 each.

    Args:
        model: a causal language model in eval mode.
        windows: rows of T token ids, such as a tensor (N, T); each is read on its own, one at a time, because the
            logits of a window, (T, V), are large.
        overlap: the first tokens of a window that the window before it has counted; of the first window, all tokens
            but the very first count.
        advance: called after each window with 1.
    """
    for number, window in enumerate(windows):
        ids_BT = torch.as_tensor(window, device=model.device)[None]
        labels_BT = ids_BT.clone()
        labels_BT[:, : overlap if number else 0] = IGNORED
        yield token_nll(model, ids_BT, torch.ones_like(ids_BT), labels_BT)
        if advance is not None:
            advance(1)


def text_perplexity(
    model: PreTrainedModel,
    windows: Iterable[Tensor | Sequence[int]],
    advance: Callable[[int], object] | None = None,
) -> float:
    """Perplexity per token of running text, over windows that do not overlap; the arguments are `window_nll`'s."""
    metric = TokenPerplexity()
    for nll in split_map(lambda window: next(window_nll(model, [window])).cpu(), list(windows), advance):
        metric.update(nll)
    return float(metric.compute())
