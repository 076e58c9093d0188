"""A trained run to score, and commands run in this process."""

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from transformers.utils import logging as transformers_logging
from workshop import Workshop, make_workshop, workshop

from switchq.cli import main

__all__ = ["make_workshop", "workshop"]

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "huggingface_hub")


@pytest.fixture(autouse=True)
def _loud_again() -> Iterator[None]:
    """Commands silence the libraries below; other tests listen to them."""
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in LOGGERS]
    verbosity = transformers_logging.get_verbosity()
    yield
    for logger, level in before:
        logger.setLevel(level)
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def switchq(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`switchq("eval", "--limit", 3)`: run a command here."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


def write_config(workshop: Workshop, folder: Path) -> Path:
    """A small fit of the workshop's model on its questions, as YAML."""
    config = {
        "model": {"base": str(workshop.base), "rank": {8: 2, 4: 2, 2: 2}, "bitmaps": ["16", "8", "2"]},
        "data": {
            "class_path": "switchq.data.modules.SquadData",
            "init_args": {
                "train": str(workshop.train),
                "dev": str(workshop.dev),
                "batch_size": 4,
                "holdout": 4,
                "max_answer_tokens": 3,
            },
        },
        "trainer": {
            "max_steps": 2,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "accelerator": "cpu",
            "default_root_dir": str(folder),
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Run:
    """A finished run."""

    config: Path
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "lightning_logs" / "version_0"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def run(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of training, by the command."""
    root = tmp_path_factory.mktemp("run")
    config = write_config(workshop, root)
    with warnings.catch_warnings():
        assert main(["fit", "--config", str(config)]) == 0
    return Run(config, root)
