"""What every score of the leaderboard is: a task that reads its examples once and scores any model on them.

A task is a frozen dataclass, so that a configuration names it with its options. Its score keeps a value for every
example (a window, a question), from which the figure follows as a ratio of sums; so two models that were scored on the
same examples can be compared example by example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.errors import UserError

Advance = Callable[[float], object]
"""Called with the number of examples done."""

Scale = Literal["mean", "exp"]


@dataclass(frozen=True)
class Items:
    """Values per example, of which a figure is the ratio of sums.

    Attributes:
        values: one per example.
        weights: one per example; empty where each counts once.
        scale: `mean` is sum(values) / sum(weights); `exp` is exp of that, as a perplexity is.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...] = ()
    scale: Scale = "mean"

    def figure(self) -> float:
        """The figure: nan where nothing counts, inf where an exponential overflows."""
        total = sum(self.weights) if self.weights else float(len(self.values))
        if not total:
            return float("nan")
        mean = np.float64(sum(self.values) / total)
        with np.errstate(over="ignore"):
            return float(np.exp(mean) if self.scale == "exp" else mean)


@dataclass(frozen=True)
class Score:
    """What a model scored.

    Attributes:
        figures: name -> figure, the one to watch first.
        items: name -> values per example, for the figures that are ratios of sums.
        counts: what was scored: windows, tokens, questions.
    """

    figures: Mapping[str, float]
    items: Mapping[str, Items] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A figure of a task as a table shows it: which end is good, and the format of its number."""

    name: str
    better: Literal["higher", "lower"]
    form: str = ".1f"


@dataclass(frozen=True)
class Task(ABC):
    """Base class of all tasks.

    Attributes:
        name: what to call it in tables and records.
        source: a local file, or a Hub name (`owner/name` or `owner/name:config`).
        split: split of a Hub data set.
        limit: use only so many examples.
    """

    name: str
    source: str
    split: str = "test"
    limit: int | None = None

    metrics: ClassVar[tuple[Metric, ...]]
    """Its figures, the headline first."""

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str) or "/" in self.name:
            raise UserError(f"a task needs a name without '/', not {self.name!r}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"task {self.name}: limit must be at least 1, not {self.limit}")

    @abstractmethod
    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[Any]:
        """What is scored, read and tokenised, for a model that reads `window` tokens at once.

        Raises:
            UserError: a source that cannot be read, is empty, or does not fit the window.
        """

    @abstractmethod
    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Any], advance: Advance
    ) -> Score:
        """Score a causal language model in eval mode; `advance` is called with 1 for each example, or with more."""

    @abstractmethod
    def protocol(self, window: int) -> str:
        """How the figures are taken, in a line: what decides whether they compare with others."""

    def to_dict(self) -> dict[str, Any]:
        """The task as plain values, in the form that a configuration file has it in."""
        return {"class_path": type(self).__name__, "init_args": asdict(self)}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id to pad with; padding is always masked."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def shares(values: Sequence[bool | float]) -> Items:
    """Values from 0 to 1 as items in percent."""
    return Items(tuple(100.0 * float(value) for value in values))
