"""Protecting a few salient channels: the simple form of AWQ (Lin et al. 2023, arXiv:2306.00978, table 2).

The channels with the largest sum of |x| over the calibration tokens, 1 % of them, are multiplied by 2 before rounding
and divided by it after, which halves their rounding error as long as they do not widen their group's range:

    W' = Q(W diag(s)) diag(1/s)        s_i = 2 for the salient channels, 1 for all others
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.basis import Scale
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.statistics import Needs
from switchq.posttraining.ptq.transform import Target, Transform


@dataclass(frozen=True)
class Protect(Transform):
    """A fixed scale for the most salient channels.

    Args:
        share: of the channels, at least one channel.
        factor: what they are multiplied by.

    Raises:
        UserError: a number out of range.
    """

    share: float = 0.01
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.factor <= 0:
            raise UserError("protect: share is above 0 and at most 1, factor above 0")

    def needs(self) -> Needs:
        """E|x|, which sorts channels as the sum does."""
        return Needs.of("mean_abs")

    def apply(self, site: Site, target: Target) -> None:
        """Scale the site."""
        protect(site, most_salient(site.statistics["mean_abs"], self.share), self.factor)


def most_salient(salience_I: Tensor, share: float) -> Tensor:
    """The channels (K,) with the largest salience: `share` of all, rounded to even at a half, and at least one."""
    return salience_I.topk(max(1, round(share * len(salience_I)))).indices


def protect(site: Site, channels_K: Tensor, factor: float) -> None:
    """Multiply these channels by `factor`; explicitly where what makes the input could only scale others along."""
    scale_I = torch.ones_like(site.quantised[0].weight_OI[0])
    scale_I[channels_K] = factor
    if torch.allclose(site.tied(scale_I), scale_I):
        site.scale(scale_I)
    else:
        for linear in site.quantised:
            site.change_basis(linear, Scale(scale_I))
