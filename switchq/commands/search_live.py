"""The progress bar of `switchq search`: how far each method is, and the best bitmap so far."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, TaskID

from switchq.posttraining.search.report import figure_text
from switchq.posttraining.search.study import Study
from switchq.progress import progress_bar
from switchq.words import count_of


class Live:
    """The progress bar: one line for each method, with the best bitmap so far."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.study: Study | None = None
        self.task: TaskID | None = None
        self.name = ""

    def start(self, method: str, total: int | None = None) -> None:
        """The line of the next method; the total is an estimate of its question evaluations."""
        self.finish()
        self.name = method
        self.task = self.bar.add_task(method, total=total or self._estimate(method))

    def advance(self, done: int) -> None:
        """Move on."""
        assert self.task is not None
        task = next(task for task in self.bar.tasks if task.id == self.task)
        total = max(float(task.total or 0), task.completed + done)
        self.bar.update(self.task, advance=done, total=total, description=f"{self.name}{self._best()}")

    def _best(self) -> str:
        chosen = self.study.chosen() if self.study is not None else None
        if self.study is None or chosen is None or self.name == "dev":
            return ""
        metric = self.study.objective.metric.name
        figure = figure_text(chosen.figures[metric], metric)
        return f" {self.study.space.average_bits(chosen.bitmap):.2f} bits {metric} {figure}"

    def _estimate(self, method: str) -> int:
        assert self.study is not None
        space, questions = self.study.space, self.study.objective.questions
        whole = len(space.units) * len(space.widths) * questions
        return {
            "references": 2 * len(space.widths) * questions,
            "greedy": whole // 5,
            "greedy-plain": whole,
            "ilp": 10 * questions,
        }.get(method, 20 * 3 * questions)

    def finish(self) -> None:
        """The line of the current method is full."""
        if self.task is not None:
            task = next(task for task in self.bar.tasks if task.id == self.task)
            self.bar.update(self.task, total=task.completed, completed=task.completed)


@contextmanager
def live_bar(known: int) -> Iterator[Live]:
    """The bar, after a word about the evaluations that are known from an earlier run.

    Args:
        known: how many.
    """
    if known:
        are = "is" if known == 1 else "are"
        print(f"Going on with an unfinished search: {count_of(known, 'evaluation')} {are} known", file=sys.stderr)
    with progress_bar() as bar:
        live = Live(bar)
        yield live
        live.finish()
