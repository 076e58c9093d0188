"""The options of `switchq transfer` as one object, and what can be told of them before anything is read."""

from dataclasses import dataclass, replace
from typing import Any

from switchq.commands.comparison_options import ComparisonOptions
from switchq.errors import UserError
from switchq.evaluation.tasks import Perplexity, Task
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.posttraining.transfer.plan import Comparison, pick_strategies
from switchq.posttraining.transfer.strategies import CONTROLS


@dataclass(frozen=True, kw_only=True)
class TransferOptions(ComparisonOptions):
    """The arguments of `switchq.verbs_transfer.transfer`, which explains them."""

    source: str | None
    via: list[str] | None
    target: str | None
    statistics: str | None
    strategies: list[str] | None
    controls: list[str] | None
    forms: list[Any] | None
    protect_ratio: float
    factor: float

    def check(self) -> None:
        """What can be told before anything is read.

        Raises:
            UserError: a number out of range, models that are missing, nothing to calibrate on or to score.
        """
        if self.target is None:
            raise UserError("give --target, the model to carry to, or --config with a target in it")
        if (self.source is None) == (self.statistics is None):
            raise UserError("give either --source, the model to calibrate, or --statistics, what was extracted from it")
        if not self.tasks:
            raise UserError("there are no text sets: give Perplexity tasks in a --config file (configs/transfer.yaml)")
        super().check()
        if len(self.calibrations) != 1:
            raise UserError(f"--calibration takes one text, not {len(self.calibrations)}: name a file or a Hub name")
        for what, given in (("bits", self.bits), ("seeds", self.seeds), ("forms", self.forms)):
            if given is not None and len(set(given)) != len(given):
                raise UserError(f"--{what} names something twice: {', '.join(map(str, given))}")
        self._picked()

    def read_tasks(self) -> list[Task]:
        """The text sets.

        Raises:
            UserError: an unknown task or option, or a task that is no text set.
        """
        tasks = super().read_tasks()
        for task in tasks:
            if not isinstance(task, Perplexity):
                raise UserError(f"task {task.name} is no text set: a transfer is scored by Perplexity tasks")
        return tasks

    def comparison(self, window: int) -> Comparison:
        """What is run, on models that read `window` tokens.

        Raises:
            UserError: a number out of range, an unknown name.
        """
        picked = self._picked()
        return replace(picked, setting=replace(self.setting(window), calibration=self.calibrations[0]))

    def _picked(self) -> Comparison:
        strategies = pick_strategies(self.strategies, self.controls)
        forms = tuple(self.forms) if self.forms else ("scale", "protect")
        if not strategies:
            raise UserError("nothing to carry: name a strategy, such as adaptive")
        idle = [name for name, one in strategies.items() if not set(one.forms) & set(forms)]
        if idle and not set(strategies) - set(idle) - set(CONTROLS):
            raise UserError(f"nothing to carry: {', '.join(idle)} has no form {', '.join(forms)}")
        return Comparison(
            self.setting(2**62),
            tuple(self.widths),
            tuple(self.seed_list),
            forms,
            strategies,
            Protect(self.protect_ratio, self.factor),
        )
