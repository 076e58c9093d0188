"""What a report is made from: results, sensitivities, searches and run folders, told apart by their contents."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from switchq.errors import UserError, reason
from switchq.evaluation import EvalResult
from switchq.posttraining.report.events import Curves, has_events, read_curves
from switchq.posttraining.report.reading import clean, number, read_json, read_table
from switchq.posttraining.report.sweeps import Sweep, sweep_of
from switchq.posttraining.report.transfers import Transfer, transfer_of
from switchq.posttraining.sensitivity import Sensitivity

UNDERSTOOD = (
    "results of `switchq eval` (a JSON list of records), a sensitivity or search file (JSON with `kind`), "
    "the CSV of a search, the folder of `switchq ptq` or `transfer`, or a run folder (lightning_logs/version_N)"
)
"""What a report takes, for messages."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Scored:
    """One record of a results file, and the intervals of its scores by name, where it has them."""

    result: EvalResult
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A file of `switchq eval`, or the scores after a training run with those before it.

    Attributes:
        name: what to call it.
        path: where it was read from.
        scored: the records, in the order of the file.
        before: scores before training, by bit-widths; empty where they are not known.
    """

    name: str
    path: Path
    scored: tuple[Scored, ...]
    before: Mapping[tuple[int, ...], EvalResult] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """A search: the parts of its JSON file, and all that it tried."""

    name: str
    path: Path
    content: Mapping[str, Any]
    tried: tuple[Mapping[str, Any], ...]
    dev: tuple[Scored, ...] = ()

    def part(self, name: str) -> list[Mapping[str, Any]]:
        """The points under a key (`front`, `baselines`, ...); none where the key is missing."""
        found = self.content.get(name)
        return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


@dataclass(frozen=True)
class TrainingRun:
    """A run folder: its curves and configuration; its scores are a `Results` of their own."""

    name: str
    path: Path
    curves: Curves
    config: str
    record: Mapping[str, Any]


@dataclass
class Sources:
    """Everything that was given, in the order given."""

    results: list[Results] = field(default_factory=list)
    sensitivities: list[tuple[Path, Sensitivity]] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    runs: list[TrainingRun] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)


def read_sources(paths: Sequence[str | Path]) -> Sources:
    """Read each path once, whatever it holds.

    Raises:
        UserError: nothing given; a path that is missing, damaged, empty, or no result of this program.
    """
    if not paths:
        raise UserError(f"nothing to report on: name one or more of {UNDERSTOOD}")
    sources, seen = Sources(), set()
    for path in map(Path, paths):
        path = next((path / one for one in ("sweep.json", "transfer.json") if (path / one).is_file()), path)
        home = path.with_suffix(".json") if path.suffix.lower() == ".csv" else path
        if home.resolve() not in seen:
            seen.add(home.resolve())
            _read(path, sources)
    return sources


def _read(path: Path, sources: Sources) -> None:
    if path.is_dir():
        _read_run(path, sources)
    elif path.suffix.lower() == ".csv":
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise UserError(f"no {beside} beside {path.name}: the search is not finished, or its files were parted")
        content = read_json(beside)
        if not isinstance(content, Mapping) or content.get("kind") != "search":
            raise UserError(f"{beside} is no search file, so {path.name} cannot be explained by it")
        sources.searches.append(_search(path, content, read_table(path)))
    else:
        content = read_json(path)
        kind = content.get("kind") if isinstance(content, Mapping) else None
        if isinstance(content, list):
            sources.results.append(Results(clean(path.name), path, _scored(content, path)))
        elif kind == "sensitivity":
            sources.sensitivities.append((path, _sensitivity(path)))
        elif kind == "search":
            table = path.with_suffix(".csv")
            tried = read_table(table) if table.is_file() else content.get("points") or []
            sources.searches.append(_search(path, content, tried))
        elif kind == "ptq":
            sources.sweeps.append(sweep_of(path, content))
        elif kind == "transfer":
            sources.transfers.append(transfer_of(path, content))
        else:
            what = f"its kind is {str(kind)[:40]!r}" if kind is not None else "it says no kind"
            raise UserError(f"{path} is not a result that can be reported ({what}); understood are {UNDERSTOOD}")


def _values(of: Any) -> list[Any]:
    return list(of.values()) if isinstance(of, Mapping) else []


def _sensitivity(path: Path) -> Sensitivity:
    try:
        read = Sensitivity.read(path)
    except (OverflowError, RecursionError) as error:
        raise UserError(f"the sensitivities {path} are damaged: {error}") from None
    parts = (read.run, read.cost, read.correlations, *_values(read.cost), *_values(read.correlations))
    if not all(isinstance(part, Mapping) for part in parts):
        raise UserError(f"the sensitivities {path} are damaged: run, cost or correlations are no objects")
    try:
        return replace(read, **{item.name: clean(getattr(read, item.name)) for item in fields(read)})
    except RecursionError as error:
        raise UserError(f"{path} is damaged: {error}") from None


_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "bitmap": str,
    "bits": list,
    "label": str,
    "average_bits": (int, float),
    "weight_mb": (int, float),
}
_NUMBERS = ("EM", "F1", "answer_perplexity", "tokens_per_s", "latency_ms", "peak_memory_mb", "HasAns_f1", "NoAns_f1")
_DEFAULTS = {"adapters": True, "weight_parts_mb": {}, "peak_memory_mb": 0.0, "peak_memory_of": "resident"}


def _scored(records: list[Any], path: Path) -> tuple[Scored, ...]:
    if not records:
        raise UserError(f"{path} holds no results: the list is empty")
    return tuple(_one(record, path, index) for index, record in enumerate(records, 1))


def _one(record: Any, path: Path, index: int) -> Scored:
    where = f"record {index} of {path}"
    if not isinstance(record, Mapping):
        raise UserError(f"{where} is not a result of `switchq eval`; understood are {UNDERSTOOD}")
    for name, kind in _REQUIRED.items():
        value = record.get(name)
        if not isinstance(value, kind) or (kind not in (str, list) and number(value) is None):
            raise UserError(f"{where} is not a result of `switchq eval`: {name!r} is missing or of the wrong type")
    if record["weight_mb"] <= 0:
        raise UserError(f"{where} is not a result of `switchq eval`: 'weight_mb' is not more than 0")
    kept = {item.name for item in fields(EvalResult) if item.compare}
    values = {**_DEFAULTS, **{name: value for name, value in record.items() if name in kept}}
    values |= {name: number(values.get(name)) for name in _NUMBERS}
    values["peak_memory_mb"] = values["peak_memory_mb"] or 0.0
    if not values["bits"] or not all(isinstance(width, int) for width in values["bits"]):
        raise UserError(f"{where}: 'bits' is not a list of bit-widths")
    for name in ("text_perplexity", "weight_parts_mb", "run"):
        if not isinstance(values.get(name) or {}, Mapping):
            raise UserError(f"{where}: {name!r} is not an object")
        values[name] = values.get(name) or {}
    values["text_perplexity"] = {name: number(value) for name, value in values["text_perplexity"].items()}
    values["adapters"] = values["adapters"] is not False
    values["n_questions"] = int(number(values.get("n_questions")) or 0)
    return Scored(EvalResult.from_record(values), dict(_intervals(record)))


def _intervals(record: Mapping[str, Any]) -> Iterator[tuple[str, Interval]]:
    for name, value in record.items():
        if name.endswith("_interval") and isinstance(value, list) and len(value) == 2:
            low, high = number(value[0]), number(value[1])
            if low is not None and high is not None:
                score = name.removesuffix("_interval")
                yield {"f1": "F1", "em": "EM"}.get(score, score), (low, high)


def _search(path: Path, content: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> Search:
    if not isinstance(content.get("run") or {}, Mapping):
        raise UserError(f"the search {path} is damaged: 'run' is not an object")
    rows = tuple(row for row in (tried if isinstance(tried, list) else []) if isinstance(row, Mapping))
    dev = content.get("dev")
    records = [one for one in dev if isinstance(one, Mapping)] if isinstance(dev, list) else []
    if not rows and not content.get("front") and not content.get("baselines") and not records:
        raise UserError(f"the search {path} holds no bitmaps: neither points nor a front nor baselines")
    run = {**(content.get("run") or {}), **_dev_data(content)}
    scored = tuple(_one({"run": run, **record}, path, index) for index, record in enumerate(records, 1))
    return Search(clean(path.name), path, content, rows, scored)


def _dev_data(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores on the dev set were taken on; the search itself ran on other questions."""
    settings = content.get("settings")
    return {"data": settings.get("dev") if isinstance(settings, Mapping) else None, "data_sha256": None}


def _read_run(folder: Path, sources: Sources) -> None:
    after, before = folder / "results.json", folder / "before.json"
    if not (after.is_file() or before.is_file() or has_events(folder)):
        scores = (found for name in (after.name, before.name) for found in folder.glob(f"**/version_*/{name}"))
        newest = max(scores, key=lambda found: found.stat().st_mtime, default=None)
        hint = "" if newest is None else f"; did you mean {newest.parent}?"
        raise UserError(f"{folder} is not a run folder: no scores and no TensorBoard events in it{hint}")
    name = clean(folder.resolve().name)
    old = _records(before) if before.is_file() else ()
    new = _records(after) if after.is_file() else ()
    if new or old:
        known = {one.result.bits: one.result for one in old} if new else {}
        sources.results.append(Results(name, folder, new or old, known))
    config = next((folder / one for one in ("config.yaml", "hparams.yaml") if (folder / one).is_file()), None)
    try:
        text = "" if config is None else clean(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {config}: {reason(error)}") from None
    record = (new or old)[0].result.run if new or old else {}
    sources.runs.append(TrainingRun(name, folder, read_curves(folder), text, record))


def _records(path: Path) -> tuple[Scored, ...]:
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of results")
    return _scored(content, path)
