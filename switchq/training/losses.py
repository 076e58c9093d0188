"""The losses of a pass: with labels, with an earlier pass of the same step, with a teacher that comes with the data.

All are means over positions, in float32. Where part of a batch lies here, sums are divided by the positions of the
whole one: shares of the joint loss.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean over positions of -log p(target), in float32.

    Args:
        logits_NV: predictions.
        targets_N: labels, of which none is to be left out.
        count: what the sum over positions is divided by, if not by N: with part of a batch here, the size of the whole.
    """
    return _over_positions(_surprise, logits_NV, targets_N) / (len(targets_N) if count is None else count)


def distillation(
    student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0, count: Tensor | None = None, top_k: int = 0
) -> Tensor:
    """Mean over positions of T^2 KL(teacher || student) at temperature T (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        student_NV: the learner's logits.
        teacher_NV: the teacher's.
        temperature: T.
        count: as for `cross_entropy`.
        top_k: tell apart only the teacher's K likeliest tokens, and take all others as one more; 0 tells apart all.
            The divergence of such coarser distributions is never larger, and 0 for an equal teacher still.
    """
    total = _over_positions(_divergence, student_NV, teacher_NV, temperature=temperature, top_k=top_k)
    return total / (len(student_NV) if count is None else count) * temperature**2


def top_k_distillation(student_NV: Tensor, ids_NK: Tensor, logprobs_NK: Tensor, count: Tensor | None = None) -> Tensor:
    """Cross-entropy (mean over positions, nats) with a stored teacher of which only the K likeliest tokens are known.

    The teacher's K probabilities are renormalised to sum to 1, as in LLM-QAT (arXiv:2305.17888) with a truncated
    teacher. `count` is as for `cross_entropy`.
    """
    total = _over_positions(_stored_divergence, student_NV, ids_NK, logprobs_NK)
    return total / (len(student_NV) if count is None else count)


NUMBERS = 2**26
"""Most logits that are float32 at a time, 268 MB: those of 1,365 positions and 49,152 tokens."""


def _over_positions(function: Callable[..., Tensor], logits_NV: Tensor, *others: Tensor, **options: Any) -> Tensor:
    """The sum of a function over positions, for many of them part by part.

    Args:
        function: of some positions' logits and rows of `others`; a sum over them.
        logits_NV: predictions.
        others: what belongs to them, (N, ...) each; nothing is learned of these.
        options: of the function.
    """
    rows = max(1, NUMBERS // logits_NV.shape[-1])
    if torch.compiler.is_compiling() or len(logits_NV) <= rows:
        return function(logits_NV, *others, **options)
    return _Parts.apply(partial(function, **options), rows, logits_NV, *others)


class _Parts(torch.autograd.Function):
    """A sum over positions part by part, and its gradient likewise, in place.

    What a gradient needs of a part is computed again when it is due: kept, it is several times as large as the logits.
    Compiled code does not make it in the first place.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.rows = function, rows
        ctx.save_for_backward(*tensors)
        return torch.stack([function(*part) for part in _split(rows, *tensors)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits_NV, *others = ctx.saved_tensors
        gradient_NV = torch.empty_like(logits_NV)
        for own_RV, logits_RV, *rest in _split(ctx.rows, gradient_NV, logits_NV, *others):
            with torch.enable_grad():
                leaf_RV = logits_RV.detach().requires_grad_()
                value = ctx.function(leaf_RV, *rest)
            own_RV.copy_(torch.autograd.grad(value, leaf_RV, gradient)[0])
        return None, None, gradient_NV, *(None for _ in others)


def _split(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors (N, ...) in parts of so many rows."""
    return zip(*(one.split(rows) for one in tensors), strict=True)


def _surprise(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="sum")


def _divergence(student_NV: Tensor, teacher_NV: Tensor, temperature: float, top_k: int) -> Tensor:
    told_apart = teacher_NV.topk(top_k).indices if 0 < top_k < teacher_NV.shape[-1] else None
    student, teacher = (_logprobs(logits_NV, temperature, told_apart) for logits_NV in (student_NV, teacher_NV))
    return F.kl_div(student, teacher, reduction="sum", log_target=True)


def _stored_divergence(student_NV: Tensor, ids_NK: Tensor, logprobs_NK: Tensor) -> Tensor:
    student_NK = F.log_softmax(student_NV.float(), -1).gather(-1, ids_NK)
    return -(logprobs_NK.float().softmax(-1) * student_NK).sum()


def _logprobs(logits_NV: Tensor, temperature: float, ids_NK: Tensor | None) -> Tensor:
    """Log-probabilities (N, V) at a temperature, or (N, K + 1) of K tokens and all others together."""
    logits_NV = logits_NV.float() / temperature
    return F.log_softmax(logits_NV if ids_NK is None else _with_rest(logits_NV, ids_NK), -1)


def _with_rest(logits_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """Logits (N, K + 1) of K tokens, and of all others together."""
    rest_N1 = logits_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits_NV.gather(-1, ids_NK), rest_N1], -1)


def state_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], count: Tensor | None = None) -> Tensor:
    """Mean over layers and positions of |student - teacher|^2 / |teacher|^2.

    Args:
        student: the learner's hidden states (N, I) after every block.
        teacher: the teacher's.
        count: as for `cross_entropy`.
    """
    ratios_LN = torch.stack([_relative_error(*pair) for pair in zip(student, teacher, strict=True)])
    return ratios_LN.mean() if count is None else ratios_LN.mean(0).sum() / count


def _relative_error(student_NI: Tensor, teacher_NI: Tensor) -> Tensor:
    errors_N = (student_NI.float() - teacher_NI.float()).square().sum(-1)
    return errors_N / teacher_NI.float().square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class LossFunctions:
    """The functions that a loss is made of, as they are or compiled.

    Over a large vocabulary they move more memory than the rest of the head; compiled, each is one sweep over it.
    """

    cross_entropy: Callable[..., Tensor] = cross_entropy
    distillation: Callable[..., Tensor] = distillation
    top_k_distillation: Callable[..., Tensor] = top_k_distillation
    state_distance: Callable[..., Tensor] = state_distance

    def compiled(self) -> "LossFunctions":
        """The same through torch.compile, for any number of positions."""
        return LossFunctions(
            **{item.name: torch.compile(getattr(self, item.name), dynamic=True) for item in fields(self)}
        )


def non_finite(labels: list[str], losses: list[Tensor]) -> str | None:
    """The label of the first loss that is NaN or infinite, or None. Waits for the device once."""
    finite = torch.isfinite(torch.stack([loss.detach() for loss in losses])).tolist()
    return next((label for label, good in zip(labels, finite) if not good), None)
