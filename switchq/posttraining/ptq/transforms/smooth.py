"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): the range of the inputs moves into the weights, channel by channel.

A few channels of x are so large that one scale a token, or one for all, leaves the others no levels. With

    Y = (x diag(1/s)) (diag(s) W^T)        s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

both sides are easy to round; max|x_j| is over the calibration tokens, max|W_j| over the rows of all linears that read
x. At alpha = 1/2 input channel and weight column j get equal ranges. The scale is folded into the norm, or the linear,
that makes x; an input that nothing can scale (GPT-2's after GELU) stays as it is. It is made for 8-bit weights and
8-bit inputs (W8A8), and for nothing less.
"""

from dataclasses import dataclass

import torch

from switchq.errors import UserError
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.statistics import Needs
from switchq.posttraining.ptq.transform import Target, Transform


@dataclass(frozen=True)
class Smooth(Transform):
    """Ranges evened out.

    Args:
        alpha: how much of the inputs' range moves into the weights, 0 to 1.

    Raises:
        UserError: alpha out of range.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"smoothquant: alpha is between 0 and 1, not {self.alpha}")

    def needs(self) -> Needs:
        """The largest inputs."""
        return Needs.of("max_abs")

    def apply(self, site: Site, target: Target) -> None:
        """Scale the site, if the scale can be folded; left-out linears are scaled too, so they count."""
        if not site.folds:
            return
        input_I = site.statistics["max_abs"]
        weight_I = torch.stack([linear.weight_OI.abs().amax(0) for linear in site.linears]).amax(0)
        scale_I = input_I.pow(self.alpha) / weight_I.pow(1 - self.alpha)
        usable_I = (input_I > 0) & (weight_I > 0)
        site.scale(site.tied(torch.where(usable_I, scale_I, torch.ones_like(scale_I))))
        for linear in site.quantised:
            linear.notes["alpha"] = self.alpha
