"""A schedule decides what each training step consists of; it computes nothing itself.

Lightning drops what a callback returns, so a schedule publishes its plan on the module before every batch. `passes`
is a pure function of the optimiser step: it can be tested without a Trainer, and a resumed run repeats the same
plans.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from switchq.bitmap import FULL, Bitmap, check_width, ladder
from switchq.errors import UserError
from switchq.nn import get_switch
from switchq.training.passes import Pass, Plan, check_plan


class Schedule(Callback, ABC):
    """Base class: binds to a model's layers, then gives a plan per optimiser step.

    Attributes:
        names: the quantised layers, in model order.
        widths: the widths that have an adapter, widest first.
    """

    names: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()

    @abstractmethod
    def passes(self, step: int) -> Plan:
        """The plan of optimiser step `step`, counted from 0 and unaffected by anything but its arguments."""

    def bind(self, names: Sequence[str], widths: Sequence[int]) -> "Schedule":
        """Learn which layers and widths there are; must come before `passes`.

        Raises:
            UserError: if the schedule's bitmaps do not fit them.
        """
        self.names, self.widths = tuple(names), tuple(sorted(set(widths), reverse=True))
        check_plan(self.passes(0))
        return self

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Bind to the module's model."""
        if stage == "fit":
            self.bind(get_switch(pl_module.model).names, pl_module.hparams["bits"])  # type: ignore[arg-type]
            pl_module.plan = self.passes(trainer.global_step)  # type: ignore[assignment]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Publish the plan of the coming step."""
        pl_module.plan = self.passes(trainer.global_step)  # type: ignore[assignment]

    def resolve(self, bitmaps: Sequence[str | int] | None) -> list[Bitmap]:
        """Written bitmaps for this model, widest first; None gives the ladder of the trained widths.

        Raises:
            UserError: one that does not fit the model, or a list without any.
        """
        written = ladder(self.widths) if bitmaps is None else bitmaps
        if not written:
            raise UserError("a schedule needs at least one bitmap")
        parsed = [Bitmap.parse(text, self.names) for text in written]
        return sorted(dict.fromkeys(parsed), key=sum, reverse=True)

    def uniform(self, bits: int) -> Bitmap:
        """All layers at `bits`."""
        return Bitmap.stripe([check_width(bits)], len(self.names))

    def mixed(self, step: int, count: int, seed: int) -> list[Bitmap]:
        """`count` bitmaps with a width drawn for each layer, the same for the same `seed` and `step`."""
        draw = random.Random(f"{seed}/{step}")
        return [Bitmap(draw.choices(self.widths, k=len(self.names))) for _ in range(count)]

    def bare(self) -> Pass:
        """The unquantised model without adapters, as a teacher."""
        return Pass(self.uniform(FULL), ce=0.0, adapters=False)


def check_settings(temperature: float, **weights: float) -> None:
    """Refuse a temperature of 0 or less, and weights or counts below 0.

    Raises:
        UserError: naming the setting.
    """
    if not temperature > 0:
        raise UserError(f"schedule.temperature must be above 0, not {temperature}")
    for name, value in weights.items():
        if not value >= 0:
            raise UserError(f"schedule.{name} must be at least 0, not {value}")
