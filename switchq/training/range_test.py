"""CPT's precision range test: how few bits can still learn?

Fu et al., ICLR 2021 (arXiv:2101.09868), section 3.3: start from the lowest precision and raise it step by step; the
first one at which training accuracy, averaged over several iterations, grows by more than a threshold is the lower
bound of the cycle. Accuracy is that of the tokens which take a loss. What the test trained is undone.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.models import logits_at
from switchq.nn import at
from switchq.training.passes import targets


class _Learner(Protocol):
    model: PreTrainedModel

    @property
    def hparams(self) -> dict: ...
    @property
    def device(self) -> torch.device: ...
    def joint_count(self, where_N: Tensor) -> Tensor | None: ...
    def add_up(self, tensors: Sequence[Tensor]) -> None: ...


def precision_range_test(
    learner: _Learner, batches: Iterable[dict[str, Tensor]], widths: Sequence[int], steps: int, threshold: float = 0.01
) -> int:
    """The narrowest of `widths` whose training accuracy grows.

    Args:
        learner: has the switchable `model`, its `device`, and the learning rate in `hparams`.
        batches: training batches, used over again if they are few.
        widths: the widths to try.
        steps: optimiser steps at each width.
        threshold: the least growth in accuracy (0 to 1) from the first half of the steps to the second.

    Returns:
        The narrowest width that passes; the widest if none does.
    """
    trained = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=learner.hparams["lr"])
    stream = itertools.cycle(batches)
    ordered = sorted(widths)
    found = ordered[-1]
    for bits in ordered[:-1]:
        with at(learner.model, bits):
            accuracies = [_train_once(learner, next(stream), optimizer) for _ in range(max(2, steps))]
        half = len(accuracies) // 2
        if sum(accuracies[half:]) / len(accuracies[half:]) - sum(accuracies[:half]) / half > threshold:
            found = bits
            break
    with torch.no_grad():
        for parameter, value in zip(trained, before):
            parameter.copy_(value)
    return found


def _train_once(learner: _Learner, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
    """A step on a batch, of which each device may have a share; the accuracy on all of it, before the step."""
    inputs, where_N, targets_N = targets({name: value.to(learner.device) for name, value in batch.items()})
    logits_NV = logits_at(learner.model, inputs, where_N)
    joint = learner.joint_count(where_N)
    count = float(len(where_N) if joint is None else joint)
    optimizer.zero_grad()
    (F.cross_entropy(logits_NV.float(), targets_N, reduction="sum") / count).backward()
    right = (logits_NV.argmax(-1) == targets_N).float().sum()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    learner.add_up([right, *(parameter.grad for parameter in trained if parameter.grad is not None)])
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(right) / count
