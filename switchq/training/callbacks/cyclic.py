"""Cyclic precision: bit-widths take turns, each with an optimiser step of its own.

`cosine` is Cyclic Precision Training (Fu et al., ICLR 2021, arXiv:2101.09868, eq. 1): in each of N cycles of T steps
the width rises from low to high along half a cosine, and drops back,

    B(t) = round(low + (high - low) / 2 x (1 - cos(pi (t mod T) / T)))        T = steps / N

The lower bound can be found with their precision range test, see `switchq.training.range_test`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from switchq.bitmap import FULL, WIDTHS, ladder
from switchq.errors import UserError
from switchq.training.callbacks.schedule import Schedule, check_settings
from switchq.training.passes import Pass, Plan
from switchq.training.range_test import precision_range_test

MIXED = "mixed"
"""In a list of bitmaps: one with a width drawn for each layer."""


class Cyclic(Schedule):
    """One optimiser step per bitmap.

    Args:
        mode: `each` runs every bitmap on every batch and steps after each; `turns` runs one bitmap per batch, so that a
            run sees more data for the same compute; `cosine` runs one uniform bitmap per batch, whose width follows a
            cosine.
        bitmaps: for `each` and `turns`; the trained widths and the stripes between them by default. `turns` takes them
            in the order given, repetitions and all; `mixed` stands for a bitmap drawn anew.
        cycles: for `cosine`: cycles over the whole run.
        low: for `cosine`: the narrowest width, or `auto` for the result of the precision range test.
        high: for `cosine`: the widest width; the widest trained one by default.
        range_test_steps: optimiser steps that the range test gives each width.
        distill: for `turns`: weight of learning from full precision, which runs on the same batch without a gradient
            and with the adapters of the widest width; 0 turns it off.
        temperature: of the distillation.
        seed: of the bitmaps that `mixed` draws.
    """

    def __init__(
        self,
        mode: Literal["each", "turns", "cosine"] = "each",
        bitmaps: Sequence[str | int] | None = None,
        cycles: int = 8,
        low: int | Literal["auto"] | None = None,
        high: int | None = None,
        range_test_steps: int = 8,
        distill: float = 0.0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_settings(temperature, distill=distill, range_test_steps=range_test_steps)
        if cycles < 1:
            raise UserError(f"cyclic needs at least one cycle, not {cycles}")
        if distill and mode != "turns":
            raise UserError(
                f"cyclic distils in mode `turns` only, not in `{mode}`: set schedule.distill 0, which a configuration "
                f"may set to {distill:g}"
            )
        self.mode = mode
        self.bitmaps = bitmaps
        self.cycles = cycles
        self.low = low
        self.high = high
        self.range_test_steps = range_test_steps
        self.distill = distill
        self.temperature = temperature
        self.seed = seed
        self.total_steps = 1
        self.found_low: int | None = None

    def bind(self, names: Sequence[str], widths: Sequence[int]) -> Schedule:
        """See `Schedule.bind`; a cosine's bounds have to be widths between which all are widths."""
        super().bind(names, widths)
        if self.mode == "cosine":
            for name, bound in (("low", self.low), ("high", self.widths[0] if self.high is None else self.high)):
                if bound not in (None, "auto", *WIDTHS):
                    raise UserError(f"cosine runs at 2 to 8 bits, and its {name} is {bound}: give --schedule.{name}")
        return self

    def passes(self, step: int) -> Plan:
        """`each`: all bitmaps, widest first, a step after each. `turns`: that of this step. `cosine`: its width."""
        if self.mode == "turns":
            return self.turn(step)
        if self.mode == "each":
            return tuple(replace(Pass(bitmap), step=True) for bitmap in self.resolve(self.bitmaps))
        return (Pass(self.uniform(self.width(step))),)

    @property
    def turns(self) -> Sequence[str | int]:
        """The bitmaps of `turns`, in their order."""
        return self.bitmaps or ladder(self.widths)

    def turn(self, step: int) -> Plan:
        """The bitmap whose turn it is, after its teacher if there is one."""
        written = self.turns[step % len(self.turns)]
        bitmap = self.mixed(step, 1, self.seed)[0] if written == MIXED else self.resolve([written])[0]
        full = self.uniform(FULL)
        if not self.distill or bitmap == full:
            return (Pass(bitmap),)
        return Pass(full, ce=0.0), Pass(bitmap, teachers=(0,), kd=self.distill, temperature=self.temperature)

    def width(self, step: int) -> int:
        """The width that the cosine has at optimiser step `step`.

        Raises:
            UserError: if the bounds are the wrong way round.
        """
        low = self.found_low if self.low == "auto" else self.low
        low = self.widths[-1] if low is None else int(low)
        high = self.widths[0] if self.high is None else self.high
        if low > high:
            raise UserError(f"cyclic's low ({low}) is above its high ({high})")
        period = max(1.0, self.total_steps / self.cycles)
        phase = (step % period) / period
        return round(low + (high - low) / 2 * (1 - math.cos(math.pi * phase)))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn the length of the run, and find the lower bound if that was asked for and is not known yet."""
        if self.mode == "cosine":
            self.total_steps = pl_module.optimizer_steps()  # type: ignore[operator]
            if self.total_steps < 2 * self.cycles and trainer.is_global_zero:
                Console(stderr=True).print(
                    f"cosine: {self.cycles} cycles in {self.total_steps} steps leave hardly more than the lowest "
                    f"width; give fewer --schedule.cycles",
                    soft_wrap=True, highlight=False,
                )  # fmt: skip
            if self.low == "auto" and self.found_low is None:
                batches = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
                found = precision_range_test(pl_module, batches, self.widths, self.range_test_steps)  # type: ignore[arg-type]
                self.found_low = trainer.strategy.broadcast(found)
                if trainer.is_global_zero:
                    Console(stderr=True).print(
                        f"precision range test: the lower bound of the cycle is {self.found_low} bits", highlight=False
                    )

    def state_dict(self) -> dict[str, Any]:
        """The bound that the range test found, so that a resumed run goes on with it."""
        return {"found_low": self.found_low}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.found_low = state_dict["found_low"]
