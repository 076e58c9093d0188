"""A training step is a plan: a tuple of passes over one batch, each at a bitmap of its own.

Schedules write plans, the module carries them out; nothing else is needed to state an algorithm:

    spnet       one pass per bitmap, one optimiser step at the end
    cyclic      one pass per bitmap, an optimiser step after each
    instantnet  spnet, each pass taught by all wider ones
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.bitmap import Bitmap
from switchq.errors import UserError


@dataclass(frozen=True)
class Pass:
    """One forward (and, if it learns anything, one backward) of a step.

    Attributes:
        bitmap: the width of every layer.
        ce: weight of the cross-entropy with the labels.
        teachers: indices of earlier passes of the step whose (detached) predictions this one learns from.
        kd: weight of the distillation, shared equally among the teachers.
        temperature: softens both sides of the distillation.
        step: take an optimiser step after this pass; the last pass of a plan always does.
        adapters: whether the adapters take part.
    """

    bitmap: Bitmap
    ce: float = 1.0
    teachers: tuple[int, ...] = ()
    kd: float = 1.0
    temperature: float = 1.0
    step: bool = False
    adapters: bool = True

    @property
    def learns(self) -> bool:
        """Whether the pass has a loss; one without only teaches, and takes no gradient."""
        return self.ce > 0 or (bool(self.teachers) and self.kd > 0)

    @property
    def label(self) -> str:
        """What the pass is called in logs: the bitmap if it is uniform or a stripe, else `mixed`."""
        name = str(self.bitmap) if len(self.bitmap.period) <= 2 else "mixed"
        return name if self.adapters else f"{name} bare"


Plan = tuple[Pass, ...]


def check_plan(plan: Plan) -> Plan:
    """Return `plan`.

    Raises:
        UserError: if it is empty, learns nothing, or a teacher does not come before its pupil.
    """
    if not any(one.learns for one in plan):
        raise UserError("the schedule's plan learns nothing: it needs a pass with a cross-entropy or a teacher")
    for index, one in enumerate(plan):
        if any(not 0 <= teacher < index for teacher in one.teachers):
            raise UserError(f"pass {index} of the plan has a teacher that does not come before it: {one.teachers}")
    return plan


def shares(plan: Plan) -> list[float]:
    """The weight of each pass's loss: 1 / (number of learning passes that share its optimiser step).

    Without it the gradient would grow with the number of passes, and clipping and learning rates change meaning.
    """
    weights: list[float] = []
    members: list[int] = []
    for index, one in enumerate(plan):
        weights.append(0.0)
        if one.learns:
            members.append(index)
        if one.step or index == len(plan) - 1:
            for member in members:
                weights[member] = 1 / len(members)
            members = []
    return weights


def targets(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """What one forward of a right-padded batch needs.

    Returns:
        The model's inputs, without an attention mask: a causal model never sees padding that comes after a token, and
        attention is faster without one. The flattened positions (N,) that predict a label. Those labels (N,).
    """
    labels_BT = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    where_N = (labels_BT != -100).flatten().nonzero().squeeze(-1)
    return {"input_ids": batch["input_ids"]}, where_N, labels_BT.flatten()[where_N]


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


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean over positions of -log p(target), in float32.

    Args:
        logits_NV: predictions.
        targets_N: labels.
        count: what the sum over positions is divided by, if not by N: with part of a batch here, the size of the whole.
    """
    if count is None:
        return F.cross_entropy(logits_NV.float(), targets_N)
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="sum") / count


def distillation(
    student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0, count: Tensor | None = None
) -> Tensor:
    """Mean over positions of T^2 KL(teacher || student) at temperature T (Hinton et al. 2015, arXiv:1503.02531).

    `count` is as for `cross_entropy`.
    """
    student = F.log_softmax(student_NV.float() / temperature, -1)
    teacher = F.log_softmax(teacher_NV.float() / temperature, -1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return total / (len(student_NV) if count is None else count) * temperature**2


def top_k_distillation(student_NV: Tensor, ids_NK: Tensor, logprobs_NK: Tensor, count: Tensor | None = None) -> Tensor:
    """Cross-entropy (mean over positions, nats) with a stored teacher of which only the K likeliest tokens are known.

    The teacher's K probabilities are renormalised to sum to 1, as in LLM-QAT (arXiv:2305.17888) with a truncated
    teacher. `count` is as for `cross_entropy`.
    """
    student_NK = F.log_softmax(student_NV.float(), -1).gather(-1, ids_NK)
    sums_N = -(logprobs_NK.float().softmax(-1) * student_NK).sum(-1)
    return sums_N.mean() if count is None else sums_N.sum() / count


@dataclass(frozen=True)
class LossFunctions:
    """The functions of logits that a loss is made of, as they are or compiled.

    Over a large vocabulary they move more memory than the rest of the head; compiled, each is one sweep over it.
    """

    cross_entropy: Callable[..., Tensor] = cross_entropy
    distillation: Callable[..., Tensor] = distillation
    top_k_distillation: Callable[..., Tensor] = top_k_distillation

    def compiled(self) -> "LossFunctions":
        """The same through torch.compile, for any number of positions."""
        return LossFunctions(
            **{item.name: torch.compile(getattr(self, item.name), dynamic=True) for item in fields(self)}
        )


def pass_loss(
    one: Pass,
    logits_NV: Tensor,
    targets_N: Tensor,
    predictions: Mapping[int, Tensor],
    stored: StoredTeacher | None = None,
    functions: LossFunctions = LossFunctions(),
    count: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a pass, and its parts for the log.

    Args:
        one: the pass.
        logits_NV: its predictions.
        targets_N: the labels.
        predictions: index of an earlier pass -> its detached predictions (N, V).
        stored: a teacher that comes with the data, for passes that learn from labels.
        functions: what computes the parts.
        count: labels of the whole batch, if only a part of it is here; losses are then shares of the joint loss.
    """
    parts = {"ce": functions.cross_entropy(logits_NV, targets_N, count)}
    loss = one.ce * parts["ce"]
    if stored is not None and one.ce > 0:
        parts["stored kd"] = functions.top_k_distillation(logits_NV, stored.ids_NK, stored.logprobs_NK, count)
        loss = loss + stored.weight * parts["stored kd"]
    if one.teachers and one.kd > 0:
        taught = [
            functions.distillation(logits_NV, predictions[teacher], one.temperature, count) for teacher in one.teachers
        ]
        parts["kd"] = torch.stack(taught).mean()
        loss = loss + one.kd * parts["kd"]
    return loss, {part: value.detach() for part, value in parts.items()}


def non_finite(labels: list[str], losses: list[Tensor]) -> str | None:
    """The label of the first loss that is NaN or infinite, or None. Waits for the device once."""
    finite = torch.isfinite(torch.stack([loss.detach() for loss in losses])).tolist()
    return next((label for label, good in zip(labels, finite) if not good), None)
