"""`switchq fit | validate | test`: LightningCLI with this program's module, data and callbacks filled in.

Every Trainer option works as usual. What is added: `schedule` (the training algorithm), `checkpoint` and `summary`.
"""

import tempfile
from argparse import ArgumentError
from inspect import isabstract
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from rich.console import Console

from switchq.commands.help_screen import HelpScreen
from switchq.commands.mistakes import explain
from switchq.commands.quiet import quiet
from switchq.data.modules import SquadData, TextData
from switchq.errors import MachineError, UserError
from switchq.evaluation import results_table, show_table
from switchq.files import write_bytes
from switchq.nn import get_switch
from switchq.quant import Grid
from switchq.quant.grid import subclasses
from switchq.training.callbacks import BeforeAfter, LastCheckpoint, Schedule, SPNet, SwitchProgress, TensorBoardExtras
from switchq.training.checkpoint import newest_checkpoint, read_checkpoint
from switchq.training.logger import WholeLogger
from switchq.training.module import SwitchableModule
from switchq.training.passes import check_accumulation
from switchq.words import count_of

__all__ = ["SquadData", "SwitchqCLI", "TextData", "run"]


class WholeConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder, whole or not at all."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Learn the folder, which all processes have to ask for together; the first one then writes."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it."""
        path = self._folder / self.config_filename
        content = self.parser.dump(self.config, skip_none=False)
        write_bytes(path, content.encode(), "--trainer.default_root_dir")


class SwitchqCLI(LightningCLI):
    """The command line around the Trainer."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer methods that are commands, and their arguments that are not options."""
        chosen = ("fit", "validate", "test")
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in chosen}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave out Lightning's own table of scores, unless it is asked for."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if "verbose" in self._subcommand_method_arguments[subcommand]:
            parser.set_defaults({"verbose": False})
        return parser

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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse a seed that no generator takes, before one is set."""
        super().parse_arguments(parser, args)
        seed = self.config[self.config["subcommand"]].get("seed_everything")
        if seed is not None and seed is not True and not 0 <= seed < 2**32:
            raise UserError(f"seed_everything must be at least 0 and below 2^32, not {seed}")

    def _parse_ckpt_path(self) -> None:
        """Resolve `--ckpt_path last` and check any other; a checkpoint never overrides what the user typed."""
        config = self.config[self.config["subcommand"]]
        config["weights_only"] = True
        if config.get("ckpt_path") == "last":
            config["ckpt_path"] = str(newest_checkpoint(config["trainer"].get("default_root_dir") or Path.cwd()))
        self._checkpoint = read_checkpoint(config["ckpt_path"]) if config.get("ckpt_path") else None

    def instantiate_classes(self) -> None:
        """Let a `UserError` of a class through, which jsonargparse wraps."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__
            raise cause or error from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard unless another logger, or none, is asked for."""
        config = self.config[self.config["subcommand"]]["trainer"]
        if config.get("logger") in (None, True):
            root = config.get("default_root_dir") or str(Path.cwd())
            kwargs["logger"] = WholeLogger(root, name="lightning_logs", default_hp_metric=False)
        for name in ("log_every_n_steps", "val_check_interval", "check_val_every_n_epoch"):
            if config.get(name) is not None and config[name] <= 0:
                raise UserError(f"trainer.{name} must be above 0, not {config[name]}")
        if str(config.get("precision")) in ("16", "16-mixed"):  # on a CPU Lightning would take another one by itself
            raise UserError("16-mixed needs loss scaling, which a plan of passes does not do: use bf16-mixed")
        if config.get("devices") in (0, "0"):
            raise UserError("--trainer.devices must be at least 1, not 0")
        if config.get("enable_progress_bar") is False:  # Lightning refuses a progress bar then, ours included
            kept = [one for one in self.trainer_defaults["callbacks"] if not isinstance(one, ProgressBar)]
            self.trainer_defaults = self.trainer_defaults | {"callbacks": kept}
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            raise UserError(f"the trainer's options do not work: {error}") from error

    def before_fit(self) -> None:
        """Find what is wrong before anything is written."""
        trainer = self.trainer
        self.model.check_trainer(trainer)
        self.model.resumes = bool(self.config["fit"].get("ckpt_path"))
        if trainer.max_steps == 0 or trainer.max_epochs == 0:
            raise UserError("there is nothing to train: trainer.max_steps and trainer.max_epochs must not be 0")
        if trainer.max_steps == -1 and trainer.max_epochs == -1:
            raise UserError("give the run an end: set trainer.max_steps or trainer.max_epochs")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Schedule):
                callback.bind(get_switch(self.model.model).names, self.model.hparams["bits"])
                check_accumulation(callback.passes(0), self.model.hparams["accumulate"])
        self._check("fit")
        if any(isinstance(callback, BeforeAfter) and callback.enabled for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._check_asked("test", ", or --summary.enabled false")

    def before_validate(self) -> None:
        """Find what is wrong before anything is written."""
        self._check("validate")
        self._check_asked("val")

    def before_test(self) -> None:
        """Find what is wrong before anything is written."""
        self._check("test")
        self._check_asked("test")

    def after_validate(self) -> None:
        """Show the scores."""
        self._show("val")

    def after_test(self) -> None:
        """Show the scores."""
        self._show("test")

    def _check_asked(self, split: str, or_else: str = "") -> None:
        """Make sure that there is something to score."""
        if not self.datamodule.scoring_set(split):
            raise UserError(f"there is nothing to score: {self.datamodule.advice(split)}{or_else}")

    def _show(self, split: str) -> None:
        if self.trainer.is_global_zero and self.model.results:
            what = self.config[self.config["subcommand"]].get("ckpt_path") or self.model.identity.name
            on = self.datamodule.scoring_set(split).describe()
            show_table(Console(), f"{what} on {on}", results_table(self.model.results))

    def _check(self, stage: str) -> None:
        """The checkpoint to start from, the place to write to, and the data, whose counts are shown."""
        checkpoint, self._checkpoint = self._checkpoint, None  # the Trainer reads it for itself
        if checkpoint is not None:
            self.model.on_load_checkpoint(checkpoint)
        _check_folder(Path(self.trainer.log_dir or self.trainer.default_root_dir))
        for name in ("batch_size", "eval_batch_size", "max_answer_tokens", "pad_multiple"):
            if self.datamodule.hparams.get(name, 1) < 1:
                raise UserError(f"data.{name} must be at least 1, not {self.datamodule.hparams[name]}")
        for name in ("num_workers", "seed"):
            if (value := self.datamodule.hparams.get(name, 0)) < 0:
                raise UserError(f"data.{name} must be at least 0, not {value}")
        self.datamodule.setup(stage)
        if stage == "fit":
            self._check_batches()
            if checkpoint is not None:
                self.datamodule.load_state_dict(checkpoint.get(type(self.datamodule).__qualname__, {}))
                self._say_if_finished(checkpoint["global_step"])
        for name, counts in self.datamodule.counts.items() if self.trainer.is_global_zero else ():
            Console(stderr=True).print(f"{name} data: {counts}", soft_wrap=True, highlight=False, markup=False)

    def _check_batches(self) -> None:
        """Make sure that there are enough for an optimiser step."""
        accumulate = self.model.hparams["accumulate"]
        batches = len(self.datamodule.train_dataloader()) * (self.trainer.max_epochs or -1)
        if 0 < batches < accumulate:
            raise UserError(
                f"the run has {count_of(batches, 'batch')} in all, fewer than model.accumulate {accumulate}: no step "
                f"would be taken"
            )

    def _say_if_finished(self, step: int) -> None:
        """Tell that a run that goes on at `step` has no steps left, which a run that was cut off in its scoring has."""
        if 0 < self.trainer.max_steps <= step and self.trainer.is_global_zero:
            Console(stderr=True).print(
                f"the checkpoint is at step {step:,}, and --trainer.max_steps is {self.trainer.max_steps:,}: there is "
                f"nothing left to train, only to score",
                soft_wrap=True, highlight=False,
            )  # fmt: skip


def run(args: list[str]) -> None:
    """Run `fit`, `validate` or `test` with the arguments after the program's name.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
        MachineError: the machine told it to end.
    """
    quiet()
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
                "use_distributed_sampler": False,
            },
            save_config_callback=WholeConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_kwargs={"exit_on_error": False, "formatter_class": HelpScreen, "prog": "switchq"},
            args=args,
        )
    except ArgumentError as error:
        raise explain(error, args, _choices()) from None
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        raise UserError(str(error).replace("`", "")) from error  # only Lightning knows how many batches it will take
    except SIGTERMException as ended:  # which would leave with 0, as if all had gone well
        told = MachineError("the run was told to end (SIGTERM)")
        for note in getattr(ended, "__notes__", ()):
            told.add_note(note)
        raise told from None
    except SystemExit as done:
        if done.code == 1:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
        raise


def _choices() -> dict[str, list[str]]:
    """The short names that options for a class take."""
    return {
        "schedule": [schedule.__name__ for schedule in Schedule.__subclasses__()],
        "model.grid": sorted(grid.__name__ for grid in subclasses(Grid) if not isabstract(grid)),
        "data": [SquadData.__name__, TextData.__name__],
    }


def _check_folder(folder: Path) -> None:
    """Make sure that `folder` can be made and written to, without making it."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror}): give --trainer.default_root_dir a place that you may write to"
        ) from None
