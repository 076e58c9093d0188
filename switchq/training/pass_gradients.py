"""The gradients of the passes of a step, each for itself: norms, the angles between them, and an equal say for all.

Passes whose gradients are looked at leave them here instead of adding them up on the parameters; before the optimiser
steps they are added up in the order of the passes, which gives the bits that autograd would have given.

Balancing concerns what all passes of a step train, a shared adapter or the base. There the gradient of pass i is

    c_i g_i        c_i = (mean over passes j of |g_j|) / |g_i|

so that none drowns the others: rounding to few bits makes for large losses and large gradients. That is GradNorm's
aim (Chen et al. 2018, arXiv:1711.02257) without its learned weights. What a pass trains alone keeps its gradient.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.training.devices import whole


@dataclass(frozen=True)
class _Part:
    """What one pass added: gradients in the order of the parameters, its name, and the weight of its loss."""

    label: str
    weight: float
    gradients: list[Tensor | None]


class PassGradients:
    """Collects the gradients of passes over one batch.

    Args:
        parameters: what is trained.
        joint: gives the sums of tensors over all devices, and leaves the tensors as they are.
    """

    def __init__(self, parameters: Sequence[Tensor], joint: Callable[[Sequence[Tensor]], Sequence[Tensor]]) -> None:
        self.parameters = parameters
        self.joint = joint
        self._parts: list[_Part] = []

    @contextmanager
    def of(self, label: str, weight: float) -> Iterator[None]:
        """Keep what the backward pass inside adds.

        Args:
            label: of the pass.
            weight: of its loss in the step's mean.
        """
        held = self._take()
        yield
        self._parts.append(_Part(label, weight, self._take()))
        for parameter, gradient in zip(self.parameters, held):
            parameter.grad = gradient

    def merge(self, balance: bool) -> dict[str, Tensor]:
        """Add up on the parameters what was collected, and forget it.

        Args:
            balance: give every pass the same gradient norm on what all of them train.

        Returns:
            `gradient norm/8`: of the loss of that pass, over all that it trains. `gradient cosine/8 and 2`: between two
            passes, over what all passes train.

        Raises:
            UserError: there is nothing to balance.
        """
        parts, self._parts = self._parts, []
        shared = [
            index for index in range(len(self.parameters)) if all(part.gradients[index] is not None for part in parts)
        ]
        if balance and (len(parts) < 2 or not shared):
            raise UserError(
                "nothing to balance: that takes several passes an optimiser step (SPNet, InstantNet) that train "
                "something in common; use --model.balance false"
            )
        logs: dict[str, Tensor] = {}
        owned: list[dict[int, Tensor]] = []
        for part in parts:
            there = {index: gradient for index, gradient in enumerate(part.gradients) if gradient is not None}
            owned.append(dict(zip(there, self.joint(list(there.values())), strict=True)))
            logs[f"gradient norm/{part.label}"] = whole(torch.nn.utils.get_total_norm(owned[-1].values())) / part.weight
        if shared and len(parts) > 1:
            products = _products(owned, shared)
            norms = products.diagonal().sqrt().clamp(min=torch.finfo(products.dtype).tiny)
            for one, other in combinations(range(len(parts)), 2):
                cosine = products[one, other] / (norms[one] * norms[other])
                logs[f"gradient cosine/{parts[one].label} and {parts[other].label}"] = cosine
            for part, factor in zip(parts, norms.mean() / norms) if balance else ():
                for index in shared:
                    cast(Tensor, part.gradients[index]).mul_(factor)
        for part in parts:
            self._add(part.gradients)
        return logs

    def _take(self) -> list[Tensor | None]:
        taken = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return taken

    def _add(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _products(gradients: Sequence[Mapping[int, Tensor]], shared: Sequence[int]) -> Tensor:
    """Inner products (P, P) of the gradients of P passes over the parameters in `shared`, one of these at a time."""
    rows = (torch.stack([whole(own[index]).flatten() for own in gradients]) for index in shared)
    with torch.autocast(gradients[0][shared[0]].device.type, enabled=False):  # which would multiply in 16 bits
        return torch.stack([one @ one.T for one in rows]).sum(0)
