"""PRAQ: the output channels that rounding puts most at risk stay at 16 bits, the others get the setting's width.

Which they are is said by the risk-aware importance of `switchq.posttraining.ptq.risk`, summed over hardware groups; the
top half of the groups stays. So at 4 bits a weight takes about 10, which the record counts. Three forms:

    praq         moments of z over sampled inputs
    fast-praq    moments of z from the mean and the Gram matrix of x, in one pass and with no inputs kept
    robust-praq  over sampled inputs with Gaussian noise added, the importance averaged over some draws

Scores are of z = x W^T + b as it leaves the linear; attention's linears, which no activation follows, are scored alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.risk import most_important, outputs_from_moments, outputs_of
from switchq.posttraining.ptq.site import Linear, Site
from switchq.posttraining.ptq.statistics import Needs
from switchq.posttraining.ptq.transform import Target, Transform


@dataclass(frozen=True)
class KeepRisky(Transform):
    """Channels that stay, chosen by risk.

    Args:
        share: of the channel groups, rounded down.
        group: output channels that stay together.
        tokens: sampled inputs; None takes the moments of z from those of x.
        noise_std: standard deviation of noise on the inputs.
        draws: noises that the importance is averaged over.
        beta: how sharp the threshold is.
        tau: the threshold below which a channel is silent.
        noise: rounding noise, as a share of E|x| mean|w|.

    Raises:
        UserError: a number out of range, noise on inputs that are not sampled.
    """

    share: float = 0.5
    group: int = 32
    tokens: int | None = 2048
    noise_std: float = 0.0
    draws: int = 1
    beta: float = 3.0
    tau: float = -3.0
    noise: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.group < 1 or self.draws < 1 or (self.tokens is not None and self.tokens < 1):
            raise UserError("keep risky: share is between 0 and 1, group, draws and tokens are 1 or more")
        if self.noise_std < 0 or (self.noise_std > 0 and self.tokens is None):
            raise UserError("keep risky: noise_std is not below zero, and needs tokens to add noise to")

    def needs(self) -> Needs:
        """Sampled inputs, or moments."""
        return Needs.of("mean", "mean_abs", "gram") if self.tokens is None else Needs.of(samples=self.tokens)

    def apply(self, site: Site, target: Target) -> None:
        """Mark the channels that stay."""
        for linear in site.quantised:
            linear.kept_O = most_important(self.importance(linear, site, target.seed), self.share, self.group)
            linear.notes["kept_channels"] = int(linear.kept_O.sum())

    def importance(self, linear: Linear, site: Site, seed: int = 0) -> Tensor:
        """The importance (O,) of the linear's output channels."""
        statistics, weight_OI = linear.seen(site.statistics), linear.weight_OI
        bias_O = getattr(linear.module, "bias", None)
        bias_O = None if bias_O is None else bias_O.detach().float()
        if self.tokens is None:
            return outputs_from_moments(statistics, weight_OI, bias_O, self.noise).risk(self.beta, self.tau)
        x_NI = statistics.sampled(self.tokens)
        generator = torch.Generator().manual_seed(seed)
        total_O = torch.zeros_like(weight_OI[:, 0])
        for _ in range(self.draws):
            noise_NI = torch.randn(x_NI.shape, generator=generator).to(x_NI.device) if self.noise_std else 0
            outputs = outputs_of(x_NI + self.noise_std * noise_NI, weight_OI, bias_O, self.noise)
            total_O += outputs.risk(self.beta, self.tau)
        return total_O / self.draws
