"""The options of `switchq search` as one object, and what can be told of them before anything is read."""

from dataclasses import dataclass
from typing import Any

from switchq.errors import UserError
from switchq.posttraining.search.metric import Metric
from switchq.posttraining.search.run import DEFAULT, RANKED
from switchq.posttraining.search.space import Cost


@dataclass(frozen=True)
class Options:
    """The arguments of `switchq.verbs.search`, which explains them."""

    ckpt: str | None
    model: str | None
    grid: str | None
    group_size: int | None
    scale: str | None
    sensitivity: str | None
    method: list[Any] | None
    budget: float
    metric: Any
    score: str | None
    cost: Cost
    average_bits: float | None
    weight_mb: float | None
    data: str | None
    questions: int
    dev: str | None
    dev_limit: int | None
    dev_points: int
    widths: list[int] | None
    group: Any
    greedy_share: float
    generations: int
    population: int
    batch_size: int
    max_new_tokens: int | None
    base: str | None
    seed: int
    device: str
    output: str
    overwrite: bool

    @property
    def methods(self) -> tuple[Any, ...]:
        """The methods to run, each once."""
        return tuple(dict.fromkeys(self.method or DEFAULT))

    def check(self) -> None:
        """What can be told before anything is read.

        Raises:
            UserError: a number out of range, or no sensitivities where a method needs them.
        """
        least = {"questions": 1, "dev_points": 1, "generations": 0, "population": 1, "batch_size": 1}
        for name, value in {**least, "max_new_tokens": 1, "dev_limit": 1}.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise UserError(f"--{name} must be at least {value}, not {given}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, not {self.seed}")
        if not 0 < self.greedy_share <= 1:
            raise UserError(
                f"--greedy_share is a part of plain greedy's evaluations: above 0, at most 1, not {self.greedy_share:g}"
            )
        Metric(self.metric).check_budget(self.budget)
        needs = [method for method in self.methods if method in RANKED]
        if needs and self.sensitivity is None:
            raise UserError(
                f"method {needs[0]} needs --sensitivity FILE (`switchq sensitivity` writes it); only evolution does not"
            )
