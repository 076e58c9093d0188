"""SPNet: every step learns at a whole set of bitmaps, and takes one optimiser step on their mean loss.

After Guerra et al. 2020, "Switchable Precision Neural Networks" (arXiv:2002.02815), which trains all widths jointly
and lets the widest teach the others. The sandwich sampler follows slimmable networks (Yu & Huang 2019,
arXiv:1903.05134).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from switchq.training.callbacks.schedule import Schedule, check_settings
from switchq.training.passes import Pass, Plan


class SPNet(Schedule):
    """The mean loss over a set of bitmaps, one optimiser step.

    Args:
        bitmaps: what each step learns at; the trained widths and the stripes between them by default.
        sampler: `fixed` takes all of `bitmaps` in every step; `sandwich` takes the widest and the narrowest of them and
            `mixed` bitmaps drawn anew for every step, so that bitmaps never trained on work too.
        mixed: random bitmaps per step of the sandwich.
        distill: weight of the distillation from the widest bitmap of the step; 0 turns it off.
        temperature: of the distillation.
        seed: of the sampler.
    """

    def __init__(
        self,
        bitmaps: Sequence[str | int] | None = None,
        sampler: Literal["fixed", "sandwich"] = "fixed",
        mixed: int = 2,
        distill: float = 0.0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_settings(temperature, distill=distill, mixed=mixed)
        self.bitmaps = bitmaps
        self.sampler = sampler
        self.mixed_per_step = mixed
        self.distill = distill
        self.temperature = temperature
        self.seed = seed

    def passes(self, step: int) -> Plan:
        """All bitmaps of the step, widest first."""
        chosen = self.resolve(self.bitmaps)
        if self.sampler == "sandwich":
            drawn = self.mixed(step, self.mixed_per_step, self.seed)
            chosen = [chosen[0], *sorted(drawn, key=sum, reverse=True), chosen[-1]]
        widest, *others = (Pass(bitmap) for bitmap in chosen)
        if self.distill > 0:
            others = [replace(one, teachers=(0,), kd=self.distill, temperature=self.temperature) for one in others]
        return (widest, *others)
