"""What the commands that run sweeps share: a check before the work, and a bar during it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from switchq.errors import UserError
from switchq.evaluation.tasks import Advance
from switchq.models import architecture_of
from switchq.models.weights import weight_view
from switchq.posttraining.ptq.plan import Run
from switchq.posttraining.ptq.setting import Setting
from switchq.posttraining.ptq.sweep import Start
from switchq.progress import progress_bar
from switchq.quant import Grid


def check_setting(model: Any, setting: Setting, grids: Sequence[Grid]) -> None:
    """Refuse what no method could do with this model.

    Raises:
        UserError: a group size that does not divide a row, a glob that matches nothing.
    """
    for name in setting.quantised(architecture_of(model.config).linear_names(model)):
        for grid in grids:
            try:
                grid.groups(weight_view(model.get_submodule(name)).shape[1])
            except UserError as error:
                raise UserError(f"{error} ({name})") from None


@contextmanager
def sweep_bar(label: str, total: int) -> Iterator[Start]:
    """A bar over all examples of all runs, which names the run."""
    with progress_bar() as bar:
        task = bar.add_task(label, total=total)

        def start(run: Run) -> Advance:
            bar.update(task, description=f"{label} {run.title}")
            return lambda done: bar.advance(task, done)

        yield start
