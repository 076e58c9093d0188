"""What a transform is: it rewrites the float model, without changing what it computes, so that rounding hurts less."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from switchq.posttraining.ptq.rounder import LinearRounder
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.statistics import Needs
from switchq.quant import Grid


@dataclass(frozen=True)
class Target:
    """What a transform's searches round with.

    Attributes:
        grid: the grid.
        bits: the width of a code.
        rounder: the method's rounder, in the form that it has in searches.
        seed: of whatever is drawn.
    """

    grid: Grid
    bits: int
    rounder: LinearRounder
    seed: int = 0


@dataclass(frozen=True)
class Transform(ABC):
    """Base class of all transforms: a frozen dataclass whose fields are its hyper-parameters."""

    def needs(self) -> Needs:
        """The statistics of a site's input that `apply` reads."""
        return Needs()

    def described(self) -> dict[str, Any]:
        """Everything that decides what it does, as plain values: its fields, unless it holds tensors."""
        return asdict(self)

    def prepare(self, model: PreTrainedModel, seed: int = 0) -> None:
        """Rewrite the whole model once, before its first block is calibrated; `seed` is of whatever is drawn."""
        return None

    @abstractmethod
    def apply(self, site: Site, target: Target) -> None:
        """Rewrite the linears that read one input, and what makes it, by `site.scale` or `site.change_basis`.

        `site.statistics` holds what was declared, of the input as earlier transforms have left it. What was found out
        and is worth keeping in the record goes into `site.linears[...].notes`.
        """
