"""Rounders with faults, and the shortest way to a sweep of a tiny model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.evaluation.tasks import Perplexity, Suite, Task
from switchq.models import load_model, load_tokenizer
from switchq.posttraining.ptq import Method, Setting
from switchq.posttraining.ptq.folder import SweepFolder
from switchq.posttraining.ptq.plan import Run
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.posttraining.ptq.sweep import Sweep
from switchq.quant import Grid


@dataclass(frozen=True)
class Fed(LinearRounder):
    """Nearest, after a shift by what the calibration inputs are and what the seed draws."""

    def needs(self) -> Needs:
        return Needs.of("mean_abs")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        noise_OI = torch.randn(weight_OI.shape, generator=torch.Generator().manual_seed(seed)).to(weight_OI.device)
        return Nearest().round(weight_OI + 0.01 * noise_OI * statistics["mean_abs"], grid, bits, statistics)


@dataclass(frozen=True)
class Drawn(LinearRounder):
    """Nearest, after noise that the seed draws; looks at no data."""

    random: ClassVar[bool] = True

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        noise_OI = torch.randn(weight_OI.shape, generator=torch.Generator().manual_seed(seed)).to(weight_OI.device)
        return Nearest().round(weight_OI + 0.01 * noise_OI, grid, bits, statistics)


@dataclass(frozen=True)
class Broken(LinearRounder):
    """Fails."""

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        raise RuntimeError("out of\nluck")


@dataclass(frozen=True)
class Nan(LinearRounder):
    """Gives a weight that is not finite."""

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        rounded = Nearest().round(weight_OI, grid, bits, statistics)
        params = {**rounded.params, "scale": rounded.params["scale"] * float("nan")}
        return replace(rounded, params=params)


METHODS = {
    "rtn": Method("rtn", Nearest()),
    "fed": Method("fed", Fed()),
    "drawn": Method("drawn", Drawn()),
    "broken": Method("broken", Broken()),
    "nan": Method("nan", Nan()),
}

SETTING = Setting(group_size=16, samples=3, length=20)

TEXT = "The red cat sat on the mat. Ann lives in a tall house in Rome; snow is white! "


def write_text(path: Path, repeats: int = 6) -> str:
    """A text file that the character tokenizer reads."""
    path.write_text(TEXT * repeats)
    return str(path)


def make_sweep(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, folder: Path, tasks: Sequence[Task] = ()
) -> Sweep:
    """A claimed sweep of perplexity on a text."""
    suite = Suite.load(tasks or [Perplexity("text", text, window=40)], tokenizer, 64)
    sweep = Sweep(model, "tiny", suite, SweepFolder(folder), torch.device("cpu"), batch_size=2)
    sweep.folder.claim({"key": "k", "base": "tiny", "tasks": sweep.tasks, "setting": {}}, False)
    sweep.folder.close()  # a lock is for other processes
    return sweep


def open_sweep(base: Path, text: str, folder: Path) -> Sweep:
    """The same for a model and tokenizer on disk."""
    return make_sweep(load_model(str(base)), load_tokenizer(str(base)), text, folder)


def silent(run: Run) -> Callable[[float], object]:
    """Nothing to show."""
    return lambda done: None


def without_times(content: Any) -> Any:
    """A record without what differs from run to run."""
    volatile = ("quantised_seconds", "collecting_seconds", "peak_memory_mb", "time", "command")
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in volatile}
    return [without_times(one) for one in content] if isinstance(content, list) else content
