"""Norms of which every width has its own: what low bits shift and stretch, their own gains and biases set right.

Switchable networks need it since slimmable ones (Yu et al. 2019, arXiv:1812.08928); "Switchable Precision Neural
Networks" (arXiv:2002.02815) does it for bit-widths. Copies start at the base's norm and are trained; the base's own
stays as it is, for the model without adapters. A norm goes with the width of the first linear that reads it.
"""

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn

from switchq.errors import UserError

OWN = "own_norm"
"""What the module of the copies is called."""


class SwitchedNorm(nn.Module):
    """The norm of the current width.

    Args:
        base: any norm over the last dimension.
        widths: those that get a copy each, in float32.

    Attributes:
        name: of the copy that the next forward uses; None for the base's own.
    """

    def __init__(self, base: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.base_layer = base
        self.add_module(OWN, nn.ModuleDict({f"bits_{bits}": deepcopy(base).float() for bits in widths}))
        self.name: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., I)."""
        if self.name is None:
            return self.base_layer(x)
        return self.get_submodule(f"{OWN}.{self.name}")(x.float()).to(x.dtype)


def is_own_norm(parameter: str) -> bool:
    """Whether the parameter of that dotted name belongs to the norm of a width."""
    return f".{OWN}." in parameter


def check_common_norms(model: nn.Module) -> None:
    """Refuse norms that differ from width to width, for formats that have no place for them.

    Raises:
        UserError: the model has some.
    """
    if any(isinstance(module, SwitchedNorm) for module in model.modules()):
        raise UserError("widths with norms of their own cannot be exported: train without --model.own_norms")
