"""InstantNet's cascade distillation: each lower precision learns from every higher one of the same step.

Fu et al. 2021, "InstantNet: Automated Generation and Deployment of Instantaneously Switchable-Precision Networks"
(arXiv:2104.10853), eq. 1: the loss of width i is its cross-entropy plus the distance to the predictions of all wider
ones, behind a stop-gradient. Here the distance is the KL divergence of softened predictions, averaged over the
teachers.
"""

from collections.abc import Sequence
from typing import Literal

from switchq.training.callbacks.schedule import Schedule, check_settings
from switchq.training.passes import Pass, Plan


class InstantNet(Schedule):
    """SPNet with a cascade of teachers.

    Args:
        bitmaps: what each step learns at; the trained widths and the stripes between them by default.
        teachers: who teaches a bitmap: `all` wider ones, the `widest` of the step, or the `next` wider one.
        bare_teacher: let the unquantised model without adapters teach too (one more forward a step); it is the widest.
        weight: of the distillation, against 1 for the cross-entropy.
        temperature: of the distillation.
        warmup_steps: optimiser steps over which the weight rises from 0; the first teachers know little.
    """

    def __init__(
        self,
        bitmaps: Sequence[str | int] | None = None,
        teachers: Literal["all", "widest", "next"] = "all",
        bare_teacher: bool = False,
        weight: float = 1.0,
        temperature: float = 1.0,
        warmup_steps: int = 0,
    ) -> None:
        check_settings(temperature, weight=weight, warmup_steps=warmup_steps)
        self.bitmaps = bitmaps
        self.teachers = teachers
        self.bare_teacher = bare_teacher
        self.weight = weight
        self.temperature = temperature
        self.warmup_steps = warmup_steps

    def passes(self, step: int) -> Plan:
        """All bitmaps, widest first, each taught by those before it, or by one of them."""
        weight = self.weight * min(1.0, (step + 1) / (self.warmup_steps + 1))
        plan = [self.bare()] if self.bare_teacher else []
        for bitmap in self.resolve(self.bitmaps):
            wider = range(len(plan))
            chosen = {"all": wider, "widest": wider[:1], "next": wider[-1:]}[self.teachers]
            plan.append(Pass(bitmap, teachers=tuple(chosen), kd=weight, temperature=self.temperature))
        return tuple(plan)
