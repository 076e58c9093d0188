"""Saving: `last.ckpt` at regular steps, at the end, and when Ctrl-C or SIGTERM asks for it between two steps.

Lightning's own ModelCheckpoint saves when the step count is a multiple of its interval, which a schedule that takes
several optimiser steps a batch can jump over, and it does not save the last step of a run. Writing goes through the
Trainer and `WholeCheckpoints`, which replaces the file in one move.

A save ends with all processes waiting for each other, and one that dies there leaves the others with a new file and an
error. So where a run fails, each process looks at the file itself for what is kept.
"""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from switchq.errors import UserError
from switchq.models import save_adapters
from switchq.training.checkpoint_io import WholeCheckpoints


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's folder up to date, and turns Ctrl-C and SIGTERM into an orderly stop.

    A run that was told to end by SIGTERM, as schedulers of clusters do, fails when all is saved: it is not finished.
    At the end of a run the adapters are also written as plain peft reads them, to `adapters/bits_N`.

    Args:
        every_n_steps: optimiser steps between two saves.

    Attributes:
        stopped: whether Ctrl-C or SIGTERM has asked this run to stop; a second one stops at once.
        path: where the checkpoint is, once this run has saved one.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint.every_n_steps must be at least 1, not {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.stopped = self._ended = False
        self.path: Path | None = None
        self._saved_at = 0
        self._saved_to_stop = False
        self._place: Path | None = None
        self._known: Stamp | None = None
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have all checkpoints written and read by `WholeCheckpoints`, unless somebody has chosen another way.

        What another run has saved is forgotten: should this one fail before its first step, nothing of it is kept.
        """
        self.path = self._place = None
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where a resumed run starts, and take over signals (after Lightning has noted whose they were)."""
        self._saved_at = trainer.global_step
        self._place = self._folder(trainer) / "checkpoints" / "last.ckpt"
        self._known = _stamp(self._place)  # in a folder without versions another run may have left one
        self.stopped = self._ended = self._saved_to_stop = False
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._stop)
            except ValueError:  # not in the main thread: signals stay with whoever owns them
                break

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count an epoch that begins where a checkpoint was saved at the end of the one before: Lightning does not.

        What is saved in an epoch that was not counted sends the next run to that epoch's start.
        """
        progress = trainer.fit_loop.epoch_progress
        if progress.current.ready == progress.current.completed:
            progress.increment_ready()
            progress.increment_started()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if the interval has passed; stop if asked to, but not between the batches of one optimiser step."""
        stopping = self._asked_to_stop(trainer) and not pl_module.waiting
        if stopping or trainer.global_step // self.every_n_steps > self._saved_at // self.every_n_steps:
            self._save(trainer)  # at once: Lightning validates before it stops
        self._saved_to_stop = stopping
        trainer.should_stop |= stopping

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, and the adapters once more as plain peft reads them; give signals back.

        Raises:
            SIGTERMException: the run was told to end.
        """
        if not self._saved_to_stop:  # or it was saved before Lightning closed an epoch that is not over
            self._save(trainer)
        self._give_back()
        self.stopped = self._asked_to_stop(trainer)
        folder = self._folder(trainer)
        if not (pl_module.hparams["train_base"] or pl_module.hparams["own_norms"]):  # adapters alone do not say it all
            save_adapters(pl_module.model, folder / "adapters", write=trainer.is_global_zero)  # type: ignore[arg-type]
        if self._ended:
            raise SIGTERMException
        if self.stopped and trainer.is_global_zero:
            Console(stderr=True).print(
                f"\nStopped after step {trainer.global_step:,} and saved {self.path}.\n"
                f"Run the same command with --ckpt_path last to go on.",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give signals back, and say what is kept."""
        self._give_back()
        self._look()
        if self.path is not None:
            exception.add_note(
                f"Step {self._saved_at:,} is kept in {self.path}: run the same command with --ckpt_path last to go on"
            )

    def _give_back(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise SIGTERMException if number == signal.SIGTERM else KeyboardInterrupt
        self.stopped, self._ended = True, number == signal.SIGTERM

    def _asked_to_stop(self, trainer: Trainer) -> bool:
        """Whether any process was; a signal reaches one sooner than another, and they must do the same."""
        asked = self.stopped
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
            if asked:  # what came in the meantime stays for the next time
                self.stopped = True
                self._ended = trainer.strategy.reduce_boolean_decision(self._ended, all=False)
        return asked

    def _save(self, trainer: Trainer) -> None:
        assert self._place is not None
        trainer.save_checkpoint(self._place)
        self.path, self._saved_at, self._known = self._place, trainer.global_step, _stamp(self._place)

    def _look(self) -> None:
        """Learn of a file that was put in place by a save from which this process has not returned."""
        if self._place is None or _stamp(self._place) == self._known:
            return
        step = _step_in(self._place)
        if step is None:
            self.path = None
        else:
            self.path, self._saved_at = self._place, step

    @staticmethod
    def _folder(trainer: Trainer) -> Path:
        return Path(trainer.log_dir or trainer.default_root_dir)


Stamp = tuple[int, int]
"""What tells a file from the one that was there before: its number and when it was written."""


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _step_in(path: Path) -> int | None:
    """The step of a checkpoint; None where it is not whole. Its tensors stay on the disk."""
    try:
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])
    except Exception:  # whatever is wrong with it must not take the place of why the run failed
        return None
