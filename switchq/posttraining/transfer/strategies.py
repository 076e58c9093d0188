"""How importance gets from the source's channels to the target's: one idea each.

| strategy | importance of the target's channels | forms |
|---|---|---|
| `direct` | the source's, channel by channel; equal dimensions only | scale, protect |
| `adaptive` | the source's, stretched by linear interpolation or thinned out in proportion | scale, protect |
| `matched` | as `adaptive`, but in the order of what the weights say, not of position | scale, protect |
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
from torch.nn.functional import avg_pool1d, interpolate

from switchq.posttraining.transfer.channels import Channels
from switchq.posttraining.transfer.statistics import SiteStatistics

Form = Literal["scale", "protect"]


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
        return resampled(source.importance_I, target.place.inputs)


@dataclass(frozen=True)
class Matched(Strategy):
    """By what the weights say of a channel: `adaptive` in the order of the weights instead of that of position.

    The channels of both models are sorted by how large they are made, equal ones by how strongly they are read. The
    source's importance in that order is averaged over neighbours, stretched or thinned out as by `adaptive`, and put at
    the target's channels in their order.

    Args:
        reach: neighbours to either side that are averaged, as far as there are any; a single channel is noise.
    """

    reach: int = 4

    def importance(self, source: SiteStatistics, target: Channels, generator: torch.Generator) -> Tensor:
        sorted_I = source.importance_I[by_weights(source.channels)]
        smooth_I = avg_pool1d(sorted_I[None], 2 * self.reach + 1, 1, self.reach, count_include_pad=False)[0]
        found_I = torch.empty(target.place.inputs)
        found_I[by_weights(target)] = resampled(smooth_I, target.place.inputs)
        return found_I


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


def resampled(values_S: Tensor, wanted: int) -> Tensor:
    """Values at other positions: interpolated if more are wanted, thinned out if fewer; see `Adaptive`.

    >>> resampled(torch.tensor([0.0, 3.0]), 3).tolist(), resampled(torch.tensor([0.0, 1.0, 2.0]), 2).tolist()
    ([0.0, 1.5, 3.0], [0.0, 2.0])
    """
    given = len(values_S)
    if wanted >= given:
        return interpolate(values_S[None, None], size=wanted, mode="linear", align_corners=False)[0, 0]
    return values_S[(2 * torch.arange(wanted) + 1) * given // (2 * wanted)]


def by_weights(channels: Channels) -> Tensor:
    """The channels from the smallest made to the largest, equal ones from the least read on."""
    order_I = channels.read_I.argsort(stable=True)
    return order_I[channels.made_I[order_I].argsort(stable=True)]
