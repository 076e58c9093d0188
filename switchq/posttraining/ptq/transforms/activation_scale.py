"""Scaling input channels by a power of their activations: AWQ (Lin et al. 2023, arXiv:2306.00978) and its L2 form.

Columns of W that meet large inputs are made larger before rounding, and the inputs smaller:

    W x = (W diag(s)) (diag(1/s) x)        s = salience^alpha / sqrt(max * min)

Salience is E|x| (AWQ) or E[x^2] (L2). alpha comes from a grid, 0, 0.05, 0.1, ...: the one with the least output error
of W' = Q(W diag(s)) diag(1/s), that is

    E|(W - W') x|^2 = tr((W - W') G (W - W')^T)        G = E[x x^T]

with the Gram matrix G taken over all tokens, or over a sample of them. Of two equal errors the smaller alpha wins, so
the result is never worse than alpha = 0 by that measure.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from switchq.errors import UserError
from switchq.posttraining.ptq.basis import Scale
from switchq.posttraining.ptq.site import Linear, Site
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.posttraining.ptq.transform import Target, Transform

Salience = Literal["mean_abs", "mean_square"]

FLOOR = 1e-8
"""Least salience, as a share of the largest: inputs that are always zero get a finite scale."""


@dataclass(frozen=True)
class ActivationScale(Transform):
    """Scales from a search over alpha.

    Args:
        salience: `mean_abs` or `mean_square` of the inputs.
        points: alphas to try, 0.05 apart, 0 first.
        shared: one alpha for all linears that read the same input, folded into what makes it where that is possible;
            otherwise each linear has an alpha of its own and an explicit scale.
        tokens: sampled inputs that the error is taken over; None takes the Gram matrix.

    Raises:
        UserError: an unknown salience, a number out of range.
    """

    salience: Salience = "mean_abs"
    points: int = 20
    shared: bool = True
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.salience not in get_args(Salience):
            raise UserError(f"no salience {self.salience!r}: there are {', '.join(get_args(Salience))}")
        if self.points < 1 or (self.tokens is not None and self.tokens < 1):
            raise UserError("activation scale: points and tokens are 1 or more")

    def needs(self) -> Needs:
        """The salience, and what errors are taken from."""
        return Needs.of(self.salience) | (Needs.of("gram") if self.tokens is None else Needs.of(samples=self.tokens))

    def apply(self, site: Site, target: Target) -> None:
        """Search and scale."""
        for linears in [site.quantised] if self.shared else [(linear,) for linear in site.quantised]:
            alpha, scale_I = self._search(site, linears, target)
            if alpha > 0 and self.shared:
                site.scale(scale_I)
            elif alpha > 0:
                site.change_basis(linears[0], Scale(scale_I))
            for linear in linears:
                linear.notes["alpha"] = alpha

    def _search(self, site: Site, linears: tuple[Linear, ...], target: Target) -> tuple[float, Tensor]:
        """The best alpha and its scale."""
        salience_I = linears[0].seen(site.statistics)[self.salience]
        grams = [self._gram(linear.seen(site.statistics)) for linear in linears]
        alphas = [point / 20 for point in range(self.points)]
        scales = [power_scale(salience_I, alpha) for alpha in alphas]
        if self.shared:
            scales = [site.tied(scale_I) for scale_I in scales]
        errors = torch.zeros(self.points, dtype=torch.float64, device=salience_I.device)
        for point, scale_I in enumerate(scales):
            for linear, gram_II in zip(linears, grams, strict=True):
                off_OI = _scaled_error(linear, scale_I, site.statistics, target)
                errors[point] += ((off_OI @ gram_II) * off_OI).sum()
        best = int(errors.nan_to_num(nan=torch.inf).argmin())  # the only wait for the device; of equal ones the first
        return alphas[best], scales[best]

    def _gram(self, seen: Statistics) -> Tensor:
        """E[x x^T] over what the error is taken over: for all alphas, cheaper than the inputs as long as I < N."""
        if self.tokens is None:
            return seen["gram"]
        x_NI = seen.sampled(self.tokens)
        return x_NI.T @ x_NI / len(x_NI)


def _scaled_error(linear: Linear, scale_I: Tensor, statistics: Statistics, target: Target) -> Tensor:
    """Q(W diag(s)) diag(1/s) - W."""
    weight_OI, seen = linear.weight_OI, linear.seen(statistics).scaled(scale_I)
    rounded = target.rounder.round(weight_OI * scale_I, target.grid, target.bits, seen, target.seed)
    return rounded.weight() / scale_I - weight_OI


def power_scale(salience_I: Tensor, alpha: float) -> Tensor:
    """salience^alpha, centred on 1 and as 16 bits hold it; 1 where there is no salience at all."""
    most = salience_I.amax()
    scale_I = torch.where(most > 0, salience_I / most, 1).clamp(min=FLOOR).pow(alpha)
    return (scale_I / (scale_I.amax() * scale_I.amin()).sqrt()).half().float()
