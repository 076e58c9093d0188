"""Who learns what from whom: what a pass is asked for besides its labels, and where.

A pass that learns from an earlier one matches its predictions: where labels are, or at every token of the text; of all
tokens, or of the teacher's likeliest; and, if asked to, the hidden states after every block, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.models.logits import logits_and_states_at, logits_at
from switchq.training.losses import LossFunctions
from switchq.training.passes import Pass

Tokens = Literal["answers", "all"]


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher whose K likeliest tokens were stored with the training data.

    Attributes:
        ids_NK: those tokens, at the N positions that take a loss.
        logprobs_NK: their log-probabilities.
        weight: of the distillation.
    """

    ids_NK: Tensor
    logprobs_NK: Tensor
    weight: float

    @classmethod
    def of(cls, batch: dict[str, Tensor], where_N: Tensor, weight: float) -> "StoredTeacher | None":
        """The stored teacher of a batch, if it has one and its weight is not 0.

        Row t of what is stored belongs to token t, which position t - 1 predicts.
        """
        if "topk_ids" not in batch or weight <= 0:
            return None
        ids_NK, logprobs_NK = (batch[name].flatten(0, 1)[where_N + 1] for name in ("topk_ids", "topk_logprobs"))
        return cls(ids_NK, logprobs_NK, weight)


@dataclass(frozen=True)
class Places:
    """Where a batch is looked at.

    Attributes:
        where_M: flattened positions whose predictions are asked for.
        labelled_N: which of these have a label; None for all.
        labels: labels of the whole batch, if only a part of it is here.
        taught: positions of the whole batch, likewise.
    """

    where_M: Tensor
    labelled_N: Tensor | None = None
    labels: Tensor | None = None
    taught: Tensor | None = None

    @classmethod
    def of(
        cls, batch: dict[str, Tensor], where_N: Tensor, tokens: Tokens, count: Callable[[Tensor], Tensor | None]
    ) -> "Places":
        """Positions that predict a label, or that predict any token of a text with labels.

        Args:
            batch: right-padded, with `attention_mask` and `labels` (B, T).
            where_N: flattened positions that predict a label, ascending.
            tokens: which of the two.
            count: of positions here, those of the whole batch; None if that is here.
        """
        labels = count(where_N)
        if tokens == "answers":
            return cls(where_N, None, labels, labels)
        counts_B1 = (batch["labels"] != -100).any(1, keepdim=True)
        real_BT = F.pad(batch["attention_mask"][:, 1:], (0, 1)) * counts_B1
        where_M = real_BT.flatten().nonzero().squeeze(-1)
        return cls(where_M, torch.searchsorted(where_M, where_N), labels, count(where_M))


@dataclass(frozen=True)
class Seen:
    """What a pass made of a batch.

    Attributes:
        logits_MV: predictions.
        states: hidden states (M, I) after each block, if they were asked for.
        labelled_N: which of the M positions have a label; None for all.
    """

    logits_MV: Tensor
    states: tuple[Tensor, ...] = ()
    labelled_N: Tensor | None = None

    @property
    def logits_NV(self) -> Tensor:
        """Predictions where labels are."""
        return self.logits_MV if self.labelled_N is None else self.logits_MV[self.labelled_N]

    def detached(self) -> "Seen":
        """The same, as a teacher."""
        return Seen(self.logits_MV.detach(), tuple(one.detach() for one in self.states))


@dataclass(frozen=True)
class Teaching:
    """What pupils learn from earlier passes.

    Attributes:
        tokens: where: at the `answers`, which have labels, or at `all` tokens.
        top_k: of how many of the teacher's likeliest tokens, see `distillation`; 0 for all.
        hidden: weight of the distance between hidden states, against 1 for the divergence of predictions.
    """

    tokens: Tokens = "answers"
    top_k: int = 0
    hidden: float = 0.0

    def look(self, model: PreTrainedModel, inputs: dict[str, Tensor], places: Places) -> Seen:
        """Run the model and keep what learning or teaching needs."""
        if self.hidden > 0:
            return Seen(*logits_and_states_at(model, inputs, places.where_M), places.labelled_N)
        return Seen(logits_at(model, inputs, places.where_M), (), places.labelled_N)

    def loss(
        self,
        one: Pass,
        seen: Seen,
        teachers: Mapping[int, Seen],
        places: Places,
        functions: LossFunctions = LossFunctions(),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `one` learns from its teachers, and the parts of it for the log; arguments as for `pass_loss`."""
        divergences, distances = [], []
        for teacher in (teachers[index] for index in one.teachers):
            logits = (seen.logits_MV, teacher.logits_MV)
            divergences.append(functions.distillation(*logits, one.temperature, places.taught, self.top_k))
            if seen.states:
                distances.append(functions.state_distance(seen.states, teacher.states, places.taught))
        parts = {"kd": torch.stack(divergences).mean()}
        loss = parts["kd"]
        if distances:
            parts["hidden"] = torch.stack(distances).mean()
            loss = loss + self.hidden * parts["hidden"]
        return loss, parts


def pass_loss(
    one: Pass,
    seen: Seen,
    targets_N: Tensor,
    teachers: Mapping[int, Seen],
    places: Places,
    teaching: Teaching = Teaching(),
    stored: StoredTeacher | None = None,
    functions: LossFunctions = LossFunctions(),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a pass, and its parts for the log.

    Args:
        one: the pass.
        seen: what it made of the batch.
        targets_N: the labels.
        teachers: index of an earlier pass -> what that one saw.
        places: where the batch was looked at.
        teaching: what is learned from teachers.
        stored: a teacher that comes with the data, for passes that learn from labels.
        functions: what computes the parts.
    """
    logits_NV = seen.logits_NV
    parts = {"ce": functions.cross_entropy(logits_NV, targets_N, places.labels)}
    loss = one.ce * parts["ce"]
    if stored is not None and one.ce > 0:
        parts["stored kd"] = functions.top_k_distillation(logits_NV, stored.ids_NK, stored.logprobs_NK, places.labels)
        loss = loss + stored.weight * parts["stored kd"]
    if one.teachers and one.kd > 0:
        learned, own = teaching.loss(one, seen, teachers, places, functions)
        loss, parts = loss + one.kd * learned, parts | own
    return loss, {part: value.detach() for part, value in parts.items()}
