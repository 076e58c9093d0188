"""How importance gets from the source's channels to the target's: one idea each.

| strategy | importance of the target's channels | forms |
|---|---|---|
| `direct` | the source's, channel by channel; equal dimensions only | scale, protect |
| `adaptive` | the source's, stretched by linear interpolation or thinned out in proportion | scale, protect |
| `matched` | that of the source's channels whose weights look alike, whatever their position | scale, protect |
| `alpha` | what the target's own weights predict; only alpha comes from the source | scale |
| `ratio` | what the target's own weights predict; only the protect ratio comes from the source | protect |
| `permuted` (control) | that of `adaptive`, shuffled: the right values in the wrong places | scale, protect |
| `random` (control) | drawn evenly from 0 to 1 | scale, protect |

Afterwards the form scales the input: `scale` by the source's alpha, `protect` by the source's ratio and factor. A
strategy of one's own is a class here and a line in `STRATEGIES`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from switchq.posttraining.transfer.channels import Channels
from switchq.posttraining.transfer.statistics import SiteStatistics

Form = Literal["scale", "protect"]

ROWS = 256
"""Target channels that are compared with all source channels at a time."""


@dataclass(frozen=True)
class Strategy(ABC):
    """Base class of all strategies: a frozen dataclass whose fields are its hyper-parameters."""

    forms: ClassVar[tuple[Form, ...]] = ("scale", "protect")
    """The forms of AWQ that it makes sense for."""

    def fits(self, source_inputs: int, target_inputs: int) -> bool:
        """Whether it can carry between inputs of these widths; where not, the layers fall back to plain rounding."""
        return True

    @abstractmethod
    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        """The importance (I,) of the target's channels, on the CPU; only ratios count.

        Args:
            source: what AWQ found at the source's input.
            target: the target's input, by its weights.
            generator: for whatever is drawn.
        """


@dataclass(frozen=True)
class Direct(Strategy):
    """Channel i takes after channel i."""

    def fits(self, source_inputs: int, target_inputs: int) -> bool:
        """Equal dimensions only."""
        return source_inputs == target_inputs

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        return source.importance_I


@dataclass(frozen=True)
class Adaptive(Strategy):
    """By relative position.

    A wider target is interpolated linearly: channel j of n lies at (j + 1/2) m / n - 1/2 among the source's m, held
    within 0 and m - 1. A narrower one takes channel floor((j + 1/2) m / n).
    """

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        importance_I, wanted = source.importance_I, target.place.inputs
        given = len(importance_I)
        if wanted >= given:
            return interpolate(importance_I[None, None], size=wanted, mode="linear", align_corners=False)[0, 0]
        return importance_I[(2 * torch.arange(wanted) + 1) * given // (2 * wanted)]


@dataclass(frozen=True)
class Matched(Strategy):
    """By what the weights say of a channel: how large it is made and how strongly it is read.

    Both are turned into quantiles within their model, so that models of other size compare. A target channel takes the
    mean importance of the source channels nearest to it in the plane of the two, of equally near ones the first.

    Args:
        neighbours: how many; a single one would hand on the noise of a single channel.
    """

    neighbours: int = 8

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        source_S2, target_T2 = (
            torch.stack([quantiles(one.made_I), quantiles(one.read_I)], 1) for one in (source.channels, target)
        )
        count, found = min(self.neighbours, len(source_S2)), []
        for part_R2 in target_T2.split(ROWS):
            far_RS = (part_R2[:, None] - source_S2).square().sum(-1)
            nearest_RK = far_RS.argsort(dim=1, stable=True)[:, :count]
            found.append(source.importance_I[nearest_RK].mean(1))
        return torch.cat(found)


@dataclass(frozen=True)
class Alpha(Strategy):
    """Only the exponent moves; the target's weights say which channels are large."""

    forms: ClassVar[tuple[Form, ...]] = ("scale",)

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        return target.made_I


@dataclass(frozen=True)
class Ratio(Alpha):
    """Only the protect ratio moves; the target's weights say which channels are large."""

    forms: ClassVar[tuple[Form, ...]] = ("protect",)


@dataclass(frozen=True)
class Permuted(Adaptive):
    """Control: if this is as good as `adaptive`, position says nothing."""

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        importance_I = super().importance(source, target, generator)
        return importance_I[torch.randperm(len(importance_I), generator=generator)]


@dataclass(frozen=True)
class Random(Strategy):
    """Control: if this is as good as a strategy, the source says nothing."""

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        return torch.rand(target.place.inputs, generator=generator)


STRATEGIES: Mapping[str, Strategy] = {
    "direct": Direct(),
    "adaptive": Adaptive(),
    "matched": Matched(),
    "alpha": Alpha(),
    "ratio": Ratio(),
}

CONTROLS: Mapping[str, Strategy] = {"permuted": Permuted(), "random": Random()}


def quantiles(values_I: Tensor) -> Tensor:
    """The place of each value among all, 0 to 1; equal values share theirs.

    >>> quantiles(torch.tensor([3.0, 1.0, 2.0, 2.0])).tolist()
    [0.875, 0.125, 0.5, 0.5]
    """
    _, place_I, counts_U = values_I.unique(return_inverse=True, return_counts=True)
    middle_U = counts_U.cumsum(0) - counts_U / 2
    return (middle_U / len(values_I))[place_I]
