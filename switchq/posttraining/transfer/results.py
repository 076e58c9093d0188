"""What a transfer came to: rows of perplexities, gaps to the target's own calibration, errors of layers."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from switchq.bitmap import FULL
from switchq.evaluation.tasks import Items
from switchq.posttraining.bootstrap import mean_gap
from switchq.posttraining.ptq.leaderboard import Entry
from switchq.posttraining.ptq.results import FULL_PRECISION, ItemsByTask, RunRecord
from switchq.posttraining.transfer.layers import LayerError, layer_errors
from switchq.posttraining.transfer.matching import Match
from switchq.posttraining.transfer.plan import OWN, RTN, title_of
from switchq.posttraining.transfer.strategies import Form

METRIC = "perplexity"

ReadItems = Callable[[RunRecord], ItemsByTask]


def verdict_of(gap: float) -> str:
    """In a word; 0.05 is 5 %.

    >>> [verdict_of(gap) for gap in (-0.1, 0.049, 0.05, 0.1, 0.2, 0.21)]
    ['excellent', 'excellent', 'good', 'moderate', 'moderate', 'limited']
    """
    if math.isnan(gap) or gap > 0.2:
        return "limited"
    return "excellent" if gap < 0.05 else "good" if gap < 0.1 else "moderate"


@dataclass(frozen=True)
class Row:
    """A model over its seeds.

    Attributes:
        model: `source` or `target`.
        name: `full precision`, `rtn`, or strategy and form.
        scores: text set -> mean perplexity.
        spreads: text set -> standard deviation over seeds; empty for a single one.
        worse: text set -> (perplexity - that in full precision) / that in full precision.
        size_mb: as a packed file.
        seconds: to quantise, without running text that is only there to measure errors.
        peak_memory_mb: while quantising.
        failed: why, if all seeds failed.
    """

    model: str
    name: str
    bits: int
    seeds: int
    effective_bits: float | None
    size_mb: float | None
    seconds: float | None
    peak_memory_mb: float | None
    scores: Mapping[str, float]
    spreads: Mapping[str, float]
    worse: Mapping[str, float]
    failed: str = ""


@dataclass(frozen=True)
class Gap:
    """(PPL_transferred - PPL_own) / PPL_own on a text set, the target's own calibration being of the same form.

    Attributes:
        gap: mean over seeds.
        spread: standard deviation over seeds; None for a single one.
        low: end of the paired 95 % bootstrap interval of the mean over windows; None where there is none.
        high: the other end.
        saved_seconds: what calibrating the target would have taken on top.
        verdict: excellent, good, moderate or limited.
    """

    name: str
    form: str
    bits: int
    task: str
    gap: float
    spread: float | None
    low: float | None
    high: float | None
    saved_seconds: float | None
    verdict: str


@dataclass(frozen=True)
class Outcome:
    """All of it, as it is written to transfer.json."""

    rows: tuple[Row, ...] = ()
    gaps: tuple[Gap, ...] = ()
    layers: tuple[LayerError, ...] = field(default=())


def outcome(
    source: Sequence[RunRecord],
    target: Sequence[RunRecord],
    forms: Sequence[Form],
    titles: Sequence[tuple[str, Form]],
    tasks: Sequence[str],
    matches: Sequence[Match],
    read_items: ReadItems,
) -> Outcome:
    """Put the records of all runs together.

    Args:
        source: of the source model; none where only its statistics were given.
        target: of the target.
        forms: of AWQ.
        titles: strategies and controls with their forms, in the order of the tables.
        tasks: names of the text sets.
        matches: of the target's inputs.
        read_items: the values per window of a record.
    """
    own = [title_of(OWN, form) for form in forms]
    order = [FULL_PRECISION, RTN, *own, *(title_of(*one) for one in titles)]
    rows = [*_rows("source", source, order, tasks), *_rows("target", target, order, tasks)]
    found = _grouped(target, order)
    gaps: list[Gap] = []
    layers: list[LayerError] = []
    for bits in dict.fromkeys(entry.bits for entry in found.values() if entry.bits != FULL):
        for form in forms:
            reference = found.get((title_of(OWN, form), bits))
            for name in [RTN, *(name for name, one in titles if one == form)]:
                entry = found.get((RTN if name == RTN else title_of(name, form), bits))
                if entry is None or reference is None or not entry.runs or not reference.runs:
                    continue
                gaps += _gaps(name, form, entry, reference, tasks, read_items)
                layers += layer_errors(name, form, entry, reference, found.get((RTN, bits)), matches)
    return Outcome(tuple(rows), tuple(gaps), tuple(layers))


def _grouped(records: Sequence[RunRecord], order: Sequence[str]) -> dict[tuple[str, int], Entry]:
    """Runs by name and width, wide before narrow, seeds in order."""
    keys = sorted({(one.name, one.bits) for one in records}, key=lambda key: (-key[1], order.index(key[0])))
    groups = {key: sorted((r for r in records if (r.name, r.bits) == key), key=lambda r: r.seed) for key in keys}
    return {
        (name, bits): Entry(
            name, bits, None, tuple(r for r in runs if r.error is None), tuple(r for r in runs if r.error is not None)
        )
        for (name, bits), runs in groups.items()
    }


def _rows(model: str, records: Sequence[RunRecord], order: Sequence[str], tasks: Sequence[str]) -> list[Row]:
    grouped = _grouped(records, order)
    full = grouped.get((FULL_PRECISION, FULL))
    rows = []
    for entry in grouped.values():
        scores = {task: value for task in tasks for value in [entry.mean(task, METRIC)] if value is not None}
        spreads = {task: value for task in tasks for value in [entry.spread(task, METRIC)] if value is not None}
        raw = {} if full is None else {task: full.mean(task, METRIC) for task in tasks}
        worse = {
            task: value / base - 1
            for task, value in scores.items()
            for base in [raw.get(task)]
            if base is not None and entry is not full
        }
        rows.append(
            Row(
                model=model,
                name=entry.name,
                bits=entry.bits,
                seeds=len(entry.runs),
                effective_bits=entry.cost("effective_bits"),
                size_mb=entry.cost("size_mb"),
                seconds=_seconds(entry),
                peak_memory_mb=entry.cost("peak_memory_mb"),
                scores=scores,
                spreads=spreads,
                worse=worse,
                failed=str(entry.failed[0].error) if entry.failed and not entry.runs else "",
            )
        )
    return rows


def _seconds(entry: Entry) -> float | None:
    """What quantising took; of methods without calibration, without the text that only measures."""
    if entry.name.startswith(OWN):
        return entry.cost("quantised_seconds")
    found = [
        run.quantised_seconds - float(run.details.get("collecting_seconds", 0.0))
        for run in entry.runs
        if run.quantised_seconds is not None
    ]
    return statistics.fmean(found) if found else None


def _pairs(entry: Entry, own: Entry) -> list[tuple[RunRecord, RunRecord]]:
    """Runs of one seed together; plain rounding, which has none, is compared with every seed."""
    by_seed = {run.seed: run for run in entry.runs}
    every = entry.runs[0] if entry.name == RTN else None
    return [(one, run) for run in own.runs for one in [every or by_seed.get(run.seed)] if one is not None]


def _gaps(name: str, form: Form, entry: Entry, own: Entry, tasks: Sequence[str], read_items: ReadItems) -> list[Gap]:
    pairs = _pairs(entry, own)
    items = [(read_items(one), read_items(other)) for one, other in pairs]
    seconds, own_seconds = _seconds(entry), _seconds(own)
    found = []
    for task in tasks:
        both: list[tuple[Items, Items]] = [(one[task][METRIC], other[task][METRIC]) for one, other in items]
        if not both:
            continue
        gap, low, high = mean_gap(both)
        each = [one.figure() / other.figure() - 1 for one, other in both]
        found.append(
            Gap(
                name=name,
                form=form,
                bits=entry.bits,
                task=task,
                gap=gap,
                spread=statistics.stdev(each) if len(each) > 1 and all(map(math.isfinite, each)) else None,
                low=None if math.isnan(low) else low,
                high=None if math.isnan(high) else high,
                saved_seconds=None if seconds is None or own_seconds is None else own_seconds - seconds,
                verdict=verdict_of(gap),
            )
        )
    return found
