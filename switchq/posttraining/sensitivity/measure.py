"""All scores of a model as one record, with a progress bar over the whole and what each score cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from rich.progress import Progress, TaskID
from torch import Tensor
from transformers import PreTrainedModel

from switchq.bitmap import check_width
from switchq.errors import UserError
from switchq.evaluation import run_record
from switchq.models import blocks_of
from switchq.nn import switch_layers
from switchq.parallel import size
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity.divergence import POSITIONS, divergences, resumed_blocks
from switchq.posttraining.sensitivity.fisher import PASSES, fisher_scores
from switchq.posttraining.sensitivity.kept import KeptSums, SensitivityJournal, Summed
from switchq.posttraining.sensitivity.outputs import output_errors
from switchq.posttraining.sensitivity.ranking import correlations
from switchq.posttraining.sensitivity.result import Sensitivity
from switchq.progress import progress_bar

Score = Literal["mse", "mae", "kl", "fisher"]

SCORES: tuple[Score, ...] = get_args(Score)

Advance = Callable[[int], object]


def measure(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    bits: Sequence[int],
    scores: Sequence[Score] = SCORES,
    *,
    adapters: bool = True,
    positions: int = POSITIONS,
    progress: bool = True,
    run: Mapping[str, Any] | None = None,
    journal: SensitivityJournal | None = None,
) -> Sensitivity:
    """Score every quantised layer of `model` at every width.

    Args:
        model: a switchable model on the device to use; it is left as it was.
        batches: calibration batches.
        bits: the widths.
        scores: which scores: `mse` and `mae` of the layer's output, `kl` of the final logits in nats per position,
            `fisher` in nats per sample (see the functions of this package).
        adapters: whether adapters take part.
        positions: for `kl`: most positions of a batch that are looked at.
        progress: show a progress bar with the time left, on stderr.
        run: what `run_record` says of this run.
        journal: where what each batch gives is kept; by default in memory.

    Raises:
        UserError: an unknown score, a width out of range, no batches, no scores, no widths.
    """
    unknown = [name for name in scores if name not in SCORES]
    if unknown:
        raise UserError(f"no score {unknown[0]!r}: there are {', '.join(SCORES)}")
    widths = sorted({check_width(width) for width in bits}, reverse=True)
    if not scores or not widths or not batches:
        raise UserError("nothing to measure: scores, widths and calibration batches are all needed")
    layers = switch_layers(model)
    parts = [part for part in _parts(model, batches, widths, adapters, positions) if set(part.scores) & set(scores)]
    found: dict[str, Tensor] = {}
    cost: dict[str, dict[str, float]] = {}
    kept = journal or SensitivityJournal(None, {"key": ""})
    with progress_bar(progress) as bar:
        task = bar.add_task("sensitivity", total=sum(part.blocks for part in parts) * len(batches))
        for part in parts:
            bar.update(task, description=f"sensitivity {' '.join(part.scores)}")
            sums = KeptSums(kept, part.scores[0], model.device)
            bar.advance(task, part.blocks * len(sums.known))
            missing = range(len(batches) - len(sums.known))
            share = len(missing) / max(1, len(missing[:: size()]))  # batches done anywhere for one done here
            advance = partial(_advance, bar, task, share)
            found |= zip(part.scores, part.call(advance, sums), strict=True)
            own = {**sums.cost(), "forwards": part.forwards}
            if part.naive is not None:
                own["forwards_naive"] = part.naive
            cost |= {name: own for name in part.scores if name in scores}
    values: dict[str, dict[int, tuple[float, ...]]] = {
        name: {width: tuple(found[name][:, place].tolist()) for place, width in enumerate(widths)}
        for name in SCORES
        if name in scores
    }
    return Sensitivity(
        layers=tuple(layer.name for layer in layers),
        weights=tuple(layer.linear.weight.numel() for layer in layers),
        bits=tuple(widths),
        scores=values,
        correlations=correlations(values),
        run=dict(run) if run is not None else run_record(model, base=str(model.config.name_or_path)),
        cost=cost,
    )


def _advance(bar: Progress, task: TaskID, share: float, done: int) -> None:
    bar.advance(task, done * share)


@dataclass(frozen=True)
class _Part:
    """What gives one score or two.

    Attributes:
        scores: their names.
        call: measures them, (L, W) each.
        blocks: block forwards that a batch is worth, the unit of the progress bar.
        forwards: whole forwards that a batch takes.
        naive: those of the naive way, a forward for each layer and width; None where there is no such way.
    """

    scores: tuple[Score, ...]
    call: Callable[[Advance, Summed], Sequence[Tensor]]
    blocks: int
    forwards: float
    naive: float | None


def _parts(
    model: PreTrainedModel, batches: Sequence[Batch], bits: Sequence[int], adapters: bool, positions: int
) -> list[_Part]:
    depth, resumed = len(blocks_of(model)), resumed_blocks(model, bits)
    pairs = len(switch_layers(model)) * len(bits)

    options: dict[str, Any] = {"model": model, "batches": batches, "bits": bits, "adapters": adapters}

    def outputs(advance: Advance, summed: Summed) -> Sequence[Tensor]:
        return output_errors(**options, advance=advance, summed=summed)

    def divergence(advance: Advance, summed: Summed) -> Sequence[Tensor]:
        return [divergences(**options, positions=positions, advance=advance, summed=summed)]

    def fisher(advance: Advance, summed: Summed) -> Sequence[Tensor]:
        return [fisher_scores(**options, advance=advance, summed=summed)]

    return [
        _Part(("mse", "mae"), outputs, depth * (1 + len(bits)), 1.0, pairs + 1.0),
        _Part(("kl",), divergence, resumed, resumed / depth, pairs + 1.0),
        _Part(("fisher",), fisher, depth * PASSES, float(PASSES), None),
    ]
