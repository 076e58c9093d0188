"""The sweep: every run in turn is built, scored and kept; one that fails is reported and the rest go on."""

import copy
import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from switchq import parallel
from switchq.bitmap import FULL, Bitmap
from switchq.errors import MachineError, UserError
from switchq.evaluation import run_record, weight_bytes
from switchq.evaluation.memory import MB
from switchq.evaluation.provenance import device_name, sha256
from switchq.evaluation.tasks import Advance, Score, Suite
from switchq.mishaps import explain_mishap, lost
from switchq.models import content_hash
from switchq.nn import at, switch_layers
from switchq.posttraining.calibration import Batch
from switchq.posttraining.journal import key_of
from switchq.posttraining.ptq.folder import SweepFolder
from switchq.posttraining.ptq.packing import Packing
from switchq.posttraining.ptq.plan import Run
from switchq.posttraining.ptq.quantise import quantise
from switchq.posttraining.ptq.record import Quantised
from switchq.posttraining.ptq.results import FULL_PRECISION, RunRecord, pack_items
from switchq.posttraining.ptq.saving import HF, holds, save_model
from switchq.posttraining.ptq.setting import Setting, calibration_batches

Start = Callable[[Run], Advance]
"""Called when a run begins; gives what to call with the number of examples done."""

Saving = Callable[[Run], Path | None]
"""Where the model of a run is to be saved, if it is."""


@dataclass(frozen=True)
class Switchable:
    """A trained switchable checkpoint, to be scored at the same widths.

    Attributes:
        model: switchable, on any device.
        identity: what tells it apart: its hash and grid, as plain values.
    """

    model: PreTrainedModel
    identity: Mapping[str, Any]


@dataclass
class Sweep:
    """What all runs share.

    Attributes:
        base: the model in full precision, as loaded; it is never changed.
        name: its Hub name or folder.
        suite: what is scored.
        folder: where runs are kept; claimed.
        device: where to quantise and score.
        switchable: for the runs named `switchq`.
        batch_size: calibration windows a batch.
        progress: whether quantising shows a bar of its own.
        offload: only the blocks that are being calibrated are on `device`, everything else waits in CPU memory;
            otherwise `base` and the model of a run are there whole.
        save_format: what models are saved in: `hf`, or a packed format.
        reload: makes the model anew for each run, the weights of `base` being let go of: never two in memory. By
            default each run starts from a copy of `base`.
        base_hash: of the weights of `base`.
        full_mb: weights of `base` at 16 bits, MB, tied ones counted once.
    """

    base: PreTrainedModel
    name: str
    suite: Suite
    folder: SweepFolder
    device: torch.device
    switchable: Switchable | None = None
    batch_size: int = 8
    progress: bool = False
    offload: bool = True
    save_format: str = HF
    reload: Callable[[], PreTrainedModel] | None = None
    _batches: dict[tuple[Any, ...], list[Batch]] = field(default_factory=dict)
    _hashes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base_hash = content_hash(self.base)
        self.full_mb = 2.0 * sum(parameter.numel() for parameter in self.base.parameters()) / MB
        if self.reload is not None:
            self.base = _on(self.base, torch.device("meta"))  # names, shapes and dtypes are needed; nothing stays tied
        elif not self.offload:
            self.base = _on(self.base, self.device)
        self.tasks = self.suite.describe()

    def key(self, run: Run) -> str:
        """The hash of everything that decides a run's figures."""
        content: dict[str, Any] = {
            "base": self.base_hash,
            "dtype": str(self.base.dtype),
            "device": self.device.type,
            "run": run.describe(),
            "tasks": self.tasks,
            "calibration": None if run.calibration is None else self._hash(run.calibration),
            "batch_size": None if run.calibration is None else self.batch_size,
        }
        if run.setting is None and run.bits != FULL and self.switchable is not None:
            content["checkpoint"] = dict(self.switchable.identity)
        return key_of(content)

    def missing(self, runs: Sequence[Run], saving: Saving = lambda run: None) -> list[Run]:
        """The runs that are still to be made, or made again because their model is not saved yet."""
        return [
            run
            for run in runs
            for record, place in [(self.folder.done(self.key(run)), saving(run))]
            if record is None or (place is not None and not holds(place, record.key, self.save_format))
        ]

    def run(self, runs: Sequence[Run], start: Start, saving: Saving = lambda run: None) -> list[RunRecord]:
        """Make the missing runs and keep each as soon as it is scored; processes that work together share them out.

        Args:
            runs: as `plan` gives them.
            start: told of each run that is made.
            saving: where to save the models.

        Returns:
            The records of all runs, kept ones among them, in order.
        """
        made = []
        for _, run in parallel.take(self.missing(runs, saving)):
            with parallel.alone():
                record, items = self._make(run, start(run), saving(run))
            self.folder.add(record, items)
            made.append(record)
        self.folder.take_over([record for records in parallel.gather(made) for record in records])
        return [self.folder.records[self.key(run)] for run in runs]

    def calibration(self, setting: Setting) -> list[Batch]:
        """Calibration batches, read once for all runs that share them.

        Raises:
            UserError: too few tokens, or a source that cannot be read.
        """
        key = (setting.calibration, setting.documents, setting.samples, setting.length, setting.seed)
        if key not in self._batches:
            self._batches[key] = calibration_batches(setting, self.suite.tokenizer, self.batch_size)
        return self._batches[key]

    def _make(self, run: Run, advance: Advance, place: Path | None) -> tuple[RunRecord, bytes | None]:
        record = RunRecord(
            name=run.name,
            bits=run.bits,
            seed=run.seed,
            calibration=run.calibration,
            key=self.key(run),
            setting={} if run.setting is None else asdict(run.setting),
            method={} if run.method is None else run.method.to_dict(),
            tasks=self.tasks,
            run=run_record(
                self.base,
                base=self.name,
                base_hash=self.base_hash,
                data=run.calibration,
                seed=run.seed,
            )
            | {"device": device_name(self.device)},
        )
        packing = None if place is None or self.save_format == HF else Packing(self.save_format)
        try:
            with self._built(run, packing) as (model, facts):
                scores = self.suite.score(model, advance)
                items = pack_items({task: score.items for task, score in scores.items()})
                record = replace(record, **facts, **_scored(scores), items_sha256=hashlib.sha256(items).hexdigest())
                if place is not None:
                    save_model(place, model, self.suite.tokenizer, record, items, packing)
            return record, items
        except Exception as error:
            if lost(error) or isinstance(error, MachineError):
                raise  # the runs after this one would fail too
            if (told := explain_mishap(error, "ptq")) is not None:
                return replace(record, error=str(told)), None
            reason = " ".join(str(error).split()) or type(error).__name__
            trace = {} if isinstance(error, UserError) else {"traceback": traceback.format_exc()}
            return replace(record, error=reason, run={**record.run, **trace}), None

    @contextmanager
    def _built(self, run: Run, packing: Packing | None) -> Iterator[tuple[PreTrainedModel, dict[str, Any]]]:
        """The model of a run on the device, and what its record says of it beside scores; `packing` gets its codes."""
        if run.name == FULL_PRECISION:
            facts = {"effective_bits": 16.0, "size_before_mb": self.full_mb, "size_mb": self.full_mb}
            yield _on(self._fresh(), self.device), facts
        elif run.method is not None and run.setting is not None:
            batches = self.calibration(run.setting) if run.calibration is not None else []
            model = self._fresh()
            made = quantise(
                model,
                run.method,
                run.setting,
                batches,
                device=self.device,
                on_layer=None if packing is None else packing.keep,
                progress=self.progress,
            )
            _check_finite(model, run.name)
            yield _on(model, self.device), _facts(made)
        elif self.switchable is not None:
            model = _on(self.switchable.model, self.device)
            bitmap = Bitmap([run.bits] * len(switch_layers(model)))
            parts = weight_bytes(model, bitmap)
            weights = sum(layer.linear.weight.numel() for layer in switch_layers(model))
            with at(model, bitmap):
                yield (
                    model,
                    {
                        "effective_bits": 8 * (parts.codes + parts.scales + parts.adapters) / weights,
                        "size_before_mb": self.full_mb,
                        "size_mb": parts.total / MB,
                    },
                )
        else:
            raise ValueError(f"nothing to build for {run.name}")

    def _fresh(self) -> PreTrainedModel:
        """The model in full precision, to be changed at will."""
        return copy.deepcopy(self.base) if self.reload is None else self.reload()

    def _hash(self, source: str) -> str:
        """Of a calibration file; a Hub data set is told apart by its name."""
        if source not in self._hashes:
            self._hashes[source] = sha256(source) if Path(source).is_file() else source
        return self._hashes[source]


def _scored(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {
        "scores": {task: dict(score.figures) for task, score in scores.items()},
        "counts": {task: dict(score.counts) for task, score in scores.items()},
    }


def _facts(made: Quantised) -> dict[str, Any]:
    """What a record takes over from the engine's."""
    return {
        "effective_bits": made.effective_bits,
        "quantised_seconds": made.seconds,
        "peak_memory_mb": made.peak_memory_mb,
        "peak_memory_of": made.peak_memory_of,
        "size_before_mb": made.bytes_before / MB,
        "size_mb": made.bytes_after / MB,
        "details": {
            "mean_error": made.mean_error,
            "calibration_tokens": made.calibration_tokens,
            "collecting_seconds": made.collecting_seconds,
            "layer_errors": {layer.name: layer.error for layer in made.layers},
            "skipped": list(made.skipped),
            "reload": made.reload,
        },
    }


def _on(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
    return moved


def _check_finite(model: PreTrainedModel, name: str) -> None:
    for parameter, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise UserError(f"{name} gave weights that are not finite ({parameter})")
