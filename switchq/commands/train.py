"""`switchq fit | validate | test`: LightningCLI with this program's module, data and callbacks filled in.

Every Trainer option works as usual. What is added: `schedule` (the training algorithm), `checkpoint` and `summary`.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from switchq.data.modules import SquadData, TextData
from switchq.errors import UserError
from switchq.training.callbacks import BeforeAfter, LastCheckpoint, Schedule, SPNet, SwitchProgress, TensorBoardExtras
from switchq.training.checkpoint import newest_checkpoint, read_checkpoint
from switchq.training.module import SwitchableModule

__all__ = ["SquadData", "SwitchqCLI", "TextData", "run"]


class SwitchqCLI(LightningCLI):
    """The command line around the Trainer."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer methods that are commands, and their arguments that are not options."""
        chosen = ("fit", "validate", "test")
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in chosen}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the schedule, checkpoint and summary callbacks, and tell the data which model it is for."""
        parser.add_lightning_class_args(Schedule, "schedule", subclass_mode=True)
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_lightning_class_args(BeforeAfter, "summary")
        parser.set_defaults(
            {
                "schedule": {"class_path": f"{SPNet.__module__}.{SPNet.__name__}"},
                "data": {"class_path": f"{SquadData.__module__}.{SquadData.__name__}"},
            }
        )
        parser.link_arguments("model.base", "data.init_args.tokenizer")

    def _parse_ckpt_path(self) -> None:
        """Resolve `--ckpt_path last` and check any other; a checkpoint never overrides what the user typed."""
        config = self.config[self.config["subcommand"]]
        config["weights_only"] = True
        if config.get("ckpt_path") == "last":
            config["ckpt_path"] = str(newest_checkpoint(config["trainer"].get("default_root_dir") or Path.cwd()))
        if config.get("ckpt_path"):
            read_checkpoint(config["ckpt_path"])

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Log to TensorBoard unless another logger, or none, is asked for."""
        config = self.config[self.config["subcommand"]]["trainer"]
        if config.get("logger") in (None, True):
            root = config.get("default_root_dir") or str(Path.cwd())
            kwargs["logger"] = TensorBoardLogger(root, name="lightning_logs", default_hp_metric=False)
        return super().instantiate_trainer(**kwargs)


def run(args: list[str]) -> None:
    """Run `fit`, `validate` or `test` with the arguments after the program's name."""
    _quiet()
    try:
        SwitchqCLI(
            SwitchableModule,
            LightningDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            trainer_defaults={
                "callbacks": [SwitchProgress(), TensorBoardExtras()],
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
            save_config_kwargs={"overwrite": True},
            args=args,
        )
    except PermissionError as error:
        raise UserError(f"cannot write {error.filename}: give --trainer.default_root_dir a place you may write to") from error


def _quiet() -> None:
    """Silence what Lightning says about choices that are made on purpose here."""
    for message in (
        ".*does not have many workers.*",
        ".*LightningCLI's args parameter.*",
        ".*exists and is not empty.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
