"""Log-likelihoods of continuations: the scorer that multiple choice and last-word prediction share.

A continuation's tokens are those that the tokenizer adds to its context's when it reads both as one text; where the
seam shifts, those of the continuation alone. The special tokens that begin a text come first, once. What does not fit
the window is cut from the start of the context.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.batches import IGNORED
from switchq.data.prompt import Encoded, leading_special_tokens
from switchq.errors import UserError
from switchq.evaluation.perplexity import answer_batches
from switchq.evaluation.tasks.task import Advance
from switchq.models import logits_at


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a continuation.

    Attributes:
        log_likelihood: the sum over its tokens, in nats.
        tokens: how many these are.
        greedy: whether each is the likeliest token at its place.
    """

    log_likelihood: float
    tokens: int
    greedy: bool


def encode_continuations(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, window: int
) -> list[Encoded]:
    """Contexts and their continuations as tokens.

    Args:
        pairs: (context, continuation); a continuation usually begins with a space.
        tokenizer: the model's.
        window: most tokens that the model reads at once.

    Raises:
        UserError: a continuation of no tokens, or one that does not fit the window.
    """

    def ids(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    if not pairs:
        return []
    first = leading_special_tokens(tokenizer)
    contexts = ids([context for context, _ in pairs])
    wholes = ids([context + continuation for context, continuation in pairs])
    alone = ids([continuation for _, continuation in pairs])
    encoded = []
    for (_, text), context, whole, bare in zip(pairs, contexts, wholes, alone):
        continuation = whole[len(context) :] if whole[: len(context)] == context else bare
        continuation = continuation or bare
        room = window - len(first) - len(continuation)
        if not continuation or room < (0 if first else 1):
            raise UserError(f"the continuation {text[:40]!r} of {len(continuation)} tokens does not fit the window")
        kept = context[max(len(context) - room, 0) :]
        encoded.append(Encoded(first + kept, continuation, len(context) - len(kept)))
        if not encoded[-1].prompt_ids:
            raise UserError(f"the continuation {text[:40]!r} has no context before it")
    return encoded


@torch.no_grad()
def likelihoods(
    model: PreTrainedModel, encoded: Sequence[Encoded], *, pad: int, batch_size: int = 16, advance: Advance
) -> list[Likelihood]:
    """The likelihood of each continuation, in the order given.

    Args:
        model: a causal language model in eval mode.
        encoded: contexts and continuations.
        pad: token id to pad with; it has no influence.
        batch_size: continuations a batch.
        advance: called after each batch with the number of continuations done.
    """
    found: list[Likelihood] = [Likelihood(0.0, 0, True)] * len(encoded)
    for rows, batch in answer_batches(encoded, batch_size, model.device, pad):
        log_N, greedy_N = _log_likelihoods(model, **batch)
        sizes = [len(encoded[row].answer_ids) for row in rows]
        for row, log, greedy in zip(rows, log_N.split(sizes), greedy_N.split(sizes)):
            found[row] = Likelihood(float(log.double().sum()), len(log), bool(greedy.all()))
        advance(len(rows))
    return found


def _log_likelihoods(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-likelihood (N,) float32 of every labelled token, and whether it is the likeliest (N,)."""
    targets_BT = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    mask_BT = targets_BT != IGNORED
    logits_NV = logits_at(model, {"input_ids": input_ids, "attention_mask": attention_mask}, mask_BT).float()
    targets_N = targets_BT[mask_BT]
    return -F.cross_entropy(logits_NV, targets_N, reduction="none"), logits_NV.argmax(-1) == targets_N
