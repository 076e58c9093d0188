"""A transfer from end to end, with one model in memory at a time.

portraits     each model is loaded, its weights are looked at, and it is let go of
extraction    the source once for each width and seed that the file of statistics lacks
sweeps        of the source, then of the target: each run loads its model anew
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import matches as glob_matches
from switchq.errors import UserError
from switchq.evaluation.provenance import sha256
from switchq.evaluation.tasks import Suite, Task
from switchq.models import architecture_of, context_window, load_model, load_tokenizer
from switchq.models.load import Dtype
from switchq.posttraining.calibration import Batch
from switchq.posttraining.journal import key_of
from switchq.posttraining.ptq.folder import SweepFolder
from switchq.posttraining.ptq.plan import Run
from switchq.posttraining.ptq.setting import Setting, calibration_batches
from switchq.posttraining.ptq.sweep import Sweep
from switchq.posttraining.transfer.channels import Portrait, portrait
from switchq.posttraining.transfer.extract import extract
from switchq.posttraining.transfer.folder import TransferFolder
from switchq.posttraining.transfer.plan import Comparison
from switchq.posttraining.transfer.statistics import SourceStatistics

Check = Callable[[PreTrainedModel, Setting], object]
"""Called with a model and the setting before any work: raises what would go wrong."""


@dataclass
class Study:
    """What all parts share.

    Attributes:
        comparison: what is run.
        tasks: the text sets.
        limit: windows of each.
        dtype: of weights and arithmetic.
        device: where to compute.
        batch_size: calibration windows a batch.
        folder: where everything is kept.
        kept_globs: globs of layers to leave out that some model has layers for.
    """

    comparison: Comparison
    tasks: Sequence[Task]
    limit: int | None
    dtype: Dtype
    device: torch.device
    batch_size: int
    folder: TransferFolder
    kept_globs: set[str] = field(default_factory=set)
    _tokenizers: dict[str, PreTrainedTokenizerBase] = field(default_factory=dict)

    def tokenizer(self, name: str) -> PreTrainedTokenizerBase:
        """Of a model, read once."""
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(name)
        return self._tokenizers[name]

    def suite(self, name: str) -> Suite:
        """The text sets as a model reads them."""
        return Suite.load(self.tasks, self.tokenizer(name), context_window(name), self.limit)

    def portrait(self, name: str, check: Check = lambda model, setting: None) -> Portrait:
        """A model's weights, looked at; the model is let go of."""
        tokenizer, model = self.tokenizer(name), load_model(name, self.dtype)
        check(model, self.setting_for(model))
        return portrait(model, name, tokenizer)

    def setting_for(self, model: PreTrainedModel) -> Setting:
        """The common ground, with those of the globs that this model has layers for."""
        names = architecture_of(model.config).linear_names(model)
        kept = [one for one in self.comparison.setting.skip if any(glob_matches(name, one) for name in names)]
        self.kept_globs.update(kept)
        return replace(self.comparison.setting, skip=tuple(kept))

    def missing_entries(self, statistics: SourceStatistics) -> list[Setting]:
        """The widths and seeds that are still to be extracted."""
        return [one for one in self.comparison.settings() if (one.bits, one.seed) not in statistics.entries]

    def described_setting(self) -> dict[str, Any]:
        """What statistics depend on beside the model, width and seed."""
        setting = self.comparison.setting
        text = str(setting.calibration)
        return {
            **{name: value for name, value in asdict(setting).items() if name not in ("bits", "seed")},
            "calibration_sha256": sha256(text) if Path(text).is_file() else None,
            "protect_ratio": self.comparison.protect.share,
            "factor": self.comparison.protect.factor,
            "dtype": self.dtype,
            "device": self.device.type,
            "batch_size": self.batch_size,
        }

    def calibration(self, setting: Setting, name: str) -> list[Batch]:
        """Calibration batches as a model reads them.

        Raises:
            UserError: too few tokens, or a source that cannot be read.
        """
        return calibration_batches(setting, self.tokenizer(name), self.batch_size)

    def extract(self, name: str, statistics: SourceStatistics, done: Callable[[], object]) -> SourceStatistics:
        """Extract what is missing and keep each entry as soon as it is there."""
        for setting in self.missing_entries(statistics):
            batches = self.calibration(setting, name)
            model = load_model(name, self.dtype)
            own = replace(setting, skip=self.setting_for(model).skip)
            protect = self.comparison.protect
            entry = extract(model, statistics.source, own, batches, protect, device=self.device, progress=False)
            del model
            statistics = statistics.with_entry(entry)
            statistics.write(self.folder.statistics)
            done()
        return statistics

    def claim(self, model: Portrait, suite: Suite, folder: SweepFolder, overwrite: bool) -> None:
        """Take a model's folder: nobody else writes to it, and what is there is of this model and these text sets.

        Raises:
            UserError: another process has it, or it holds a sweep of another model or of other text sets.
        """
        tasks = suite.describe()
        content = {"base": model.sha256, "tasks": tasks, "dtype": self.dtype, "device": self.device.type}
        header = {"key": key_of(content), "base": model.name, "tasks": tasks, "setting": self.described_setting()}
        folder.claim(header, overwrite)

    def sweep(self, name: str, suite: Suite, folder: SweepFolder) -> Sweep:
        """The sweep of a model, its folder being claimed."""
        return Sweep(
            load_model(name, self.dtype),
            name,
            suite,
            folder,
            self.device,
            batch_size=self.batch_size,
            reload=lambda: load_model(name, self.dtype),
        )

    def fitted(self, runs: Sequence[Run], model: PreTrainedModel) -> list[Run]:
        """The runs with the globs that their model has layers for."""
        skip = self.setting_for(model).skip
        return [run if run.setting is None else replace(run, setting=replace(run.setting, skip=skip)) for run in runs]


def warnings_of(
    source: Portrait, chain: Sequence[Portrait], setting: Mapping[str, Any], given: Mapping[str, Any]
) -> list[str]:
    """What makes a comparison of these models doubtful, one sentence each.

    Args:
        source: the source.
        chain: the models after it.
        setting: of this transfer.
        given: what the statistics were extracted with.
    """
    found = []
    for model in chain:
        if model.model_type != source.model_type:
            found.append(
                f"{source.name} is a {source.model_type} model and {model.name} a {model.model_type} model: different "
                f"architectures, inputs are matched by their role"
            )
        if model.vocabulary != source.vocabulary:
            found.append(
                f"{source.name} and {model.name} have different vocabularies: their perplexities are per different "
                f"tokens and do not compare, and they saw different calibration tokens"
            )
    for name in ("group_size", "symmetric", "protect_ratio", "factor", "calibration"):
        if given.get(name) != setting.get(name):
            found.append(
                f"the statistics were extracted with {name} {given.get(name)}, the target is quantised with "
                f"{setting.get(name)}"
            )
    return found


def need_entries(statistics: SourceStatistics, comparison: Comparison) -> None:
    """Make sure that a given file has all widths and seeds.

    Raises:
        UserError: one is missing.
    """
    for setting in comparison.settings():
        if not statistics.entry(setting.bits, setting.seed).sites:
            raise UserError(f"the statistics of {statistics.source.name} hold no layers")
