"""The table at the end of a run: every bitmap before and after training, and what to do next."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.markup import escape

from switchq.bitmap import ladder
from switchq.data.scoring_set import ScoringSet
from switchq.evaluation import EvalResult, before_after_table, results_table, show_table, write_results
from switchq.training.callbacks.checkpoint import LastCheckpoint
from switchq.words import command_line, count_of


class BeforeAfter(Callback):
    """Scores the scoring set before the first and after the last step, shows one table, and logs the final figures.

    The figures before training are kept in the run's folder and in the callback's state, so that a resumed run compares
    with the true start.

    Args:
        enabled: set to false for runs whose result is scored elsewhere.
        compare: set to false to score only after training, where the start is known from another run.
        questions: score only the first so many questions; all of them by default.

    Attributes:
        before: the figures before training, once they are known.
        asked: what they are of: the bitmaps as written, and a hash of the scoring set.
    """

    def __init__(self, enabled: bool = True, compare: bool = True, questions: int | None = None) -> None:
        self.enabled = enabled
        self.compare = compare
        self.questions = questions
        self.before: list[EvalResult] | None = None
        self.asked: list[str] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the untrained model, unless the run was resumed."""
        if self.enabled and self.compare and self.before is None and not pl_module.resumes:
            self.before = self._score(trainer, pl_module)
            self.asked = self._what(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score again, print the table, write `results.json`, log the final figures beside the hyper-parameters."""
        if not self.enabled or _was_stopped(trainer):
            return
        after = self._score(trainer, pl_module)
        before = self.before if self.asked == self._what(trainer, pl_module) else None
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all processes ask the first one for it
        if not trainer.is_global_zero:
            return
        write_results(folder / "results.json", after)
        if before is not None:
            write_results(folder / "before.json", before)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figures = {f"final/{name}": value for result in after for name, value in result.figures().items()}
                logger.log_hyperparams(dict(pl_module.hparams), figures, step=trainer.global_step)
        console = Console()
        subject = f"{count_of(trainer.global_step, 'step')}, {_set(trainer).first(self.questions).describe()}"
        console.print()
        if before is not None:
            show_table(console, f"Before → after {subject}", before_after_table(before, after))
        else:
            show_table(console, f"After {subject}", results_table(after))
        if before is None and self.before is not None:
            console.print("Other questions or bitmaps were scored before training: there is nothing to compare with.")
        checkpoint = _last_checkpoint(trainer)
        if checkpoint is not None:
            console.print(f"Results    {escape(str(_short(folder / 'results.json')))}", soft_wrap=True, highlight=False)
            console.print(f"Checkpoint {escape(str(checkpoint))}", soft_wrap=True, highlight=False)
            console.print("\n[bold]Try next[/]")
            rungs = ladder(pl_module.hparams["bits"])
            tried = [word for one in dict.fromkeys((*rungs[:2], rungs[-1])) for word in ("--bitmap", one)]
            for command in (
                command_line("switchq", "eval", "--ckpt", checkpoint, *tried, "--output", "results.json"),
                command_line("switchq", "eval", "--ckpt", checkpoint, "--bitmap", "16", "--adapters", "both"),
                command_line("tensorboard", "--logdir", _short(Path(trainer.default_root_dir) / "lightning_logs")),
            ):
                console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)

    def _score(self, trainer: Trainer, pl_module: LightningModule) -> list[EvalResult]:
        pl_module.to(trainer.strategy.root_device)  # Lightning moves a trained module to the CPU before `on_fit_end`
        return pl_module.score(_set(trainer).first(self.questions))  # type: ignore[operator]

    def _what(self, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        return [*pl_module.bitmaps, _set(trainer).first(self.questions).sha256()]  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """The figures before training, and what they are of."""
        before = None if self.before is None else [result.record() for result in self.before]
        return {"before": before, "asked": self.asked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        before = state_dict["before"]
        self.before = None if before is None else [EvalResult.from_record(record) for record in before]
        self.asked = state_dict.get("asked")


def _set(trainer: Trainer) -> ScoringSet:
    return trainer.datamodule.scoring_set("test")  # type: ignore[attr-defined]


def _was_stopped(trainer: Trainer) -> bool:
    return any(callback.stopped for callback in _savers(trainer))


def _last_checkpoint(trainer: Trainer) -> Path | None:
    path = next((callback.path for callback in _savers(trainer)), None)
    return None if path is None else _short(path)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _savers(trainer: Trainer) -> list[LastCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
