"""Several tasks with their examples, read once and scored on any number of models."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.errors import UserError
from switchq.evaluation.tasks.task import Advance, Score, Task
from switchq.models.inference import eval_mode


@dataclass(frozen=True)
class Suite:
    """Tasks, and what they score, for one tokenizer and one window.

    Attributes:
        tasks: in the order of the columns of a table; each has a name of its own.
        examples: those of each task.
        tokenizer: the model's.
        window: most tokens that the model reads at once.
    """

    tasks: tuple[Task, ...]
    examples: tuple[list[Any], ...]
    tokenizer: PreTrainedTokenizerBase
    window: int

    @classmethod
    def load(
        cls, tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, window: int, limit: int | None = None
    ) -> Self:
        """Read the examples of all tasks.

        Args:
            tasks: at least one.
            tokenizer: the model's.
            window: most tokens that the model reads at once.
            limit: at most so many examples of each task.

        Raises:
            UserError: no tasks, two of one name, or what reading them raises.
        """
        names = [task.name for task in tasks]
        if not names:
            raise UserError("there is nothing to score: name one or more tasks")
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"two tasks are called {twice[0]!r}: give each a name of its own")
        if limit is not None:
            tasks = [replace(task, limit=min(limit, task.limit or limit)) for task in tasks]
        examples = tuple(task.examples(tokenizer, window) for task in tasks)
        if empty := [name for name, found in zip(names, examples) if not found]:
            raise UserError(f"task {empty[0]} has no examples: its source is empty")
        return cls(tuple(tasks), examples, tokenizer, window)

    def __len__(self) -> int:
        """Examples of all tasks."""
        return sum(map(len, self.examples))

    def score(self, model: PreTrainedModel, advance: Advance) -> dict[str, Score]:
        """The scores of a causal language model, by name of the task; it is left as it was."""
        with eval_mode(model):
            return {
                task.name: task.score(model, self.tokenizer, examples, advance)
                for task, examples in zip(self.tasks, self.examples)
            }

    def describe(self) -> dict[str, dict[str, Any]]:
        """Each task by its name: its options, protocol, metrics, and count and SHA-256 of its examples."""
        return {
            task.name: {
                **task.to_dict(),
                "protocol": task.protocol(self.window),
                "metrics": [{"name": one.name, "better": one.better, "form": one.form} for one in task.metrics],
                "examples": len(examples),
                "sha256": hashlib.sha256(repr(examples).encode("utf-8", "backslashreplace")).hexdigest(),
            }
            for task, examples in zip(self.tasks, self.examples)
        }


def same_examples(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of a task, as `Suite.describe` gives them, are of the same examples and protocol."""
    return all(one.get(key) == other.get(key) for key in ("class_path", "sha256", "protocol"))
