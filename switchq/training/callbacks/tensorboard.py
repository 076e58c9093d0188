"""What goes to TensorBoard beside scalars: a text sample per bitmap, and the bit schedule."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from switchq.data.squad import Question


class TensorBoardExtras(Callback):
    """Logs answers to a few held-out questions per bitmap after each validation, and the mean bits of each step.

    Args:
        questions: how many questions to show.
    """

    def __init__(self, questions: int = 3) -> None:
        self.questions = questions

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the bit schedule: the mean width of every pass of the plan."""
        for logger in self._loggers(trainer):
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                widths = {str(i): sum(one.bitmap) / len(one.bitmap) for i, one in enumerate(pl_module.plan)}  # type: ignore[arg-type]
                for index, width in widths.items():
                    logger.experiment.add_scalar(f"bit schedule/pass {index}", width, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log text samples."""
        questions = trainer.datamodule.scoring_set("val").questions[: self.questions]  # type: ignore[attr-defined]
        for logger in self._loggers(trainer):
            for result in pl_module.results:  # type: ignore[union-attr]
                if result.predictions and trainer.state.fn == "fit":
                    rows = [
                        f"| {_cell(one.question)} | {_cell(result.predictions[one.id])} | {_gold(one)} |"
                        for one in questions
                    ]
                    text = "\n".join(["| question | answer | gold |", "|---|---|---|", *rows])
                    logger.experiment.add_text(f"answers/{result.label}", text, trainer.global_step)

    @staticmethod
    def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
        return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _gold(question: Question) -> str:
    return _cell(" / ".join(dict.fromkeys(question.answers)))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or "(empty)"
