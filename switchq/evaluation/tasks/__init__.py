"""Tasks: what a model can be scored on. A new one is a file here with a subclass of `Task`, and its name below."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from switchq.errors import UserError
from switchq.evaluation.tasks.arithmetic import Arithmetic
from switchq.evaluation.tasks.last_word import LastWord
from switchq.evaluation.tasks.multiple_choice import MultipleChoice
from switchq.evaluation.tasks.perplexity import Perplexity
from switchq.evaluation.tasks.reading import Reading
from switchq.evaluation.tasks.speed import Speed
from switchq.evaluation.tasks.suite import Suite, same_examples
from switchq.evaluation.tasks.task import Advance, Items, Metric, Score, Task

TASKS: Mapping[str, type[Task]] = {
    task.__name__: task for task in (Perplexity, LastWord, MultipleChoice, Reading, Arithmetic, Speed)
}

__all__ = [
    "TASKS",
    "Advance",
    "Arithmetic",
    "Items",
    "LastWord",
    "Metric",
    "MultipleChoice",
    "Perplexity",
    "Reading",
    "Score",
    "Speed",
    "Suite",
    "Task",
    "same_examples",
    "task_from_dict",
]


def task_from_dict(content: Any) -> Task:
    """A task from `{"class_path": ..., "init_args": {...}}`, the inverse of `Task.to_dict`.

    Raises:
        UserError: an unknown task or option, or a value that the task refuses.
    """
    if not isinstance(content, Mapping) or "class_path" not in content:
        raise UserError(f"a task is written as class_path and init_args, not {content!r}")
    name, options = str(content["class_path"]).rpartition(".")[2], dict(content.get("init_args") or {})
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    known = [field.name for field in fields(TASKS[name])]
    if unknown := [option for option in options if option not in known]:
        raise UserError(f"task {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    if missing := [option for option in ("name", "source") if option not in options]:
        raise UserError(f"task {name} needs {missing[0]!r}")
    return TASKS[name](**options)
