"""A training step is a plan: a tuple of passes over one batch, each at a bitmap of its own.

Schedules write plans, the module carries them out; nothing else is needed to state an algorithm:

    spnet       one pass per bitmap, one optimiser step at the end
    cyclic      one pass per bitmap, an optimiser step after each
    instantnet  spnet, each pass taught by all wider ones
"""

from dataclasses import dataclass

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


def check_accumulation(plan: Plan, accumulate: int) -> None:
    """Make sure that a plan can be carried out for several batches before a step.

    Raises:
        UserError: it steps in between.
    """
    if accumulate > 1 and any(one.step for one in plan[:-1]):
        raise UserError("a schedule that steps after every pass cannot accumulate: use --model.accumulate 1")


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
