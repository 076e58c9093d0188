"""Which records may be compared: those scored on the same questions and texts, and what each keeps of 16 bits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from switchq.bitmap import FULL
from switchq.evaluation import EvalResult
from switchq.posttraining.report.sources import Results, Scored, Sources
from switchq.words import count_of


@dataclass(frozen=True)
class Row:
    """A scored bitmap with the file that it is from and, where they are known, its reference and its past.

    Attributes:
        file: name of the file.
        path: where that lies.
        scored: the record.
        reference: the record of the same file at 16 bits.
        before: the record before training.
    """

    file: str
    path: Path
    scored: Scored
    reference: EvalResult | None = None
    before: EvalResult | None = None

    @property
    def result(self) -> EvalResult:
        """The record itself."""
        return self.scored.result

    def kept(self, metric: str) -> float | None:
        """Percent of the score at 16 bits that this bitmap has; None where that is unknown or zero."""
        full = None if self.reference is None else score(self.reference, metric)
        own = score(self.result, metric)
        return None if not full or own is None else 100 * own / full

    @property
    def size(self) -> float | None:
        """Percent of the size at 16 bits."""
        return None if self.reference is None else 100 * self.result.weight_mb / self.reference.weight_mb


@dataclass(frozen=True)
class Group:
    """Rows that may be compared, and what they were scored on."""

    title: str
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[str]:
        """The scores that at least one row has: F1, then the perplexity of each text."""
        texts = dict.fromkeys(f"{name} perplexity" for row in self.rows for name in row.result.text_perplexity)
        return [one for one in ("F1", *texts) if any(score(row.result, one) is not None for row in self.rows)]


def groups(sources: Sources) -> list[Group]:
    """All scored bitmaps, grouped by what they were scored on, in the order given."""
    files = list(sources.results)
    files += [Results(search.name, search.path, search.dev) for search in sources.searches if search.dev]
    hashes = _hashes(files)
    found: dict[tuple[object, ...], list[Row]] = {}
    titles: dict[tuple[object, ...], str] = {}
    for row in (row for file in files for row in _rows(file)):
        key = _scored_on(row.result, hashes)
        found.setdefault(key, []).append(row)
        titles[key] = _title(row.result)
    return [Group(titles[key], tuple(rows)) for key, rows in found.items()]


def score(result: EvalResult, metric: str) -> float | None:
    """A score by its name: `EM`, `F1`, or `NAME perplexity` of a text."""
    if metric in ("EM", "F1"):
        return result.F1 if metric == "F1" else result.EM
    return result.text_perplexity.get(metric.removesuffix(" perplexity"))


def kind(bits: Sequence[int]) -> str:
    """`uniform`, `striped` (two or three widths in turn) or `mixed`."""
    if len(set(bits)) == 1:
        return "uniform"
    for period in (2, 3):
        if len(bits) > period and all(bits[i] == bits[i % period] for i in range(len(bits))):
            return "striped"
    return "mixed"


def _rows(file: Results) -> Iterator[Row]:
    full = [one.result for one in file.scored if set(one.result.bits) == {FULL}]
    for one in file.scored:
        same = [other for other in full if _scored_on(other, {}) == _scored_on(one.result, {})]
        alike = [other for other in same if other.adapters == one.result.adapters] or same
        yield Row(file.name, file.path, one, alike[0] if alike else None, file.before.get(one.result.bits))


def _hashes(files: Sequence[Results]) -> dict[str, str]:
    """Hash of each data file by its name, where only one is known; some records have the name alone."""
    runs = [one.result.run for file in files for one in file.scored]
    known: dict[str, set[str]] = {}
    for run in runs:
        if run.get("data") and run.get("data_sha256"):
            known.setdefault(str(run["data"]), set()).add(str(run["data_sha256"]))
    return {name: hashes.pop() for name, hashes in known.items() if len(hashes) == 1}


def _scored_on(result: EvalResult, hashes: Mapping[str, str]) -> tuple[object, ...]:
    """What tells apart scores that may not be compared: the questions, and the texts with their windows."""
    run, settings = result.run, result.run.get("settings")
    scoring = settings.get("scoring") if isinstance(settings, dict) else None
    windows = str(scoring.get("windows") or "") if isinstance(scoring, dict) else ""
    data = str(run.get("data"))
    return (
        str(run.get("data_sha256") or hashes.get(data, data)),
        result.n_questions,
        tuple(sorted(result.text_perplexity)),
        windows,
    )


def _title(result: EvalResult) -> str:
    data = result.run.get("data")
    names = [Path(str(data)).name] if data and result.n_questions else list(result.text_perplexity)
    questions = f", {count_of(result.n_questions, 'question')}" if result.n_questions else ""
    return (" and ".join(names) or "unnamed data") + questions
