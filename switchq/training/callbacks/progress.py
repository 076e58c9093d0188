"""The live display: a progress bar with the time left, and under it loss and F1 of every bitmap.

On a terminal it redraws in place. Where output goes to a file it prints a line per validation instead.
"""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

SMOOTHING = 0.9
"""Weight of the past in the displayed losses."""


class SwitchProgress(ProgressBar):
    """Steps, time left, and per bitmap: cross-entropy and distillation (smoothed), latest held-out F1 and EM."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self._live: Live | None = None
        self._losses: dict[str, dict[str, float]] = {}
        self._scores: dict[str, dict[str, float]] = {}
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (called by Lightning on ranks other than 0)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        super().on_train_start(trainer, pl_module)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        total = pl_module.optimizer_steps()  # type: ignore[operator]
        self._task = self._progress.add_task("", total=total, completed=trainer.global_step, note="")
        if self._enabled and self.console.is_terminal:
            self._live = Live(self._display(), console=self.console, refresh_per_second=4)
            self._live.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on; read the losses now and then, since reading them waits for the device."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._progress.update(self._task, completed=trainer.global_step)
        if trainer.global_step % max(1, trainer.log_every_n_steps // 5) == 0:  # type: ignore[attr-defined]
            self._read_losses(pl_module.latest)  # type: ignore[arg-type]
            self._redraw()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the wait is for."""
        super().on_validation_start(trainer, pl_module)
        if self._live is not None:
            self._progress.update(self._task, note="scoring held-out questions")
            self._redraw()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the new scores."""
        super().on_validation_end(trainer, pl_module)
        for result in pl_module.results:  # type: ignore[union-attr]
            self._scores[result.label] = result.headline()
        if self._live is not None:
            self._progress.update(self._task, note="")
            self._redraw()
        elif self._enabled and trainer.state.fn == "fit":
            scores = "  ".join(
                f"{label}: " + " ".join(f"{name} {value:.1f}" for name, value in headline.items())
                for label, headline in self._scores.items()
            )
            self.console.print(f"step {trainer.global_step}  {scores}", soft_wrap=True, highlight=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the last state on the screen."""
        super().on_train_end(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._redraw()
            self._live.stop()
            self._live = None

    def _redraw(self) -> None:
        if self._live is not None:
            self._live.update(self._display())

    def _read_losses(self, latest: dict[str, Tensor]) -> None:
        for name, value in latest.items():
            part, _, label = name.partition("/")
            if part in ("ce", "kd"):
                row = self._losses.setdefault(label, {})
                new = float(value)
                row[part] = SMOOTHING * row[part] + (1 - SMOOTHING) * new if part in row else new

    def _display(self) -> Group:
        columns = list(dict.fromkeys(name for headline in self._scores.values() for name in headline))
        parts = [part for part in ("ce", "kd") if any(part in row for row in self._losses.values())]
        table = Table(box=box.SIMPLE, pad_edge=False)
        table.add_column("bitmap")
        for name in (*parts, *columns):
            table.add_column({"ce": "loss", "kd": "distillation"}.get(name, name), justify="right")
        for label in dict.fromkeys([*self._losses, *self._scores]):
            losses, scores = self._losses.get(label, {}), self._scores.get(label, {})
            table.add_row(
                label,
                *(f"{losses[part]:.3f}" if part in losses else "" for part in parts),
                *(f"{scores[name]:.1f}" if name in scores else "" for name in columns),
            )
        return Group(self._progress, table) if self._losses or self._scores else Group(self._progress)
