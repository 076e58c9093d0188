"""The top of the page: whose results these are, and in one sentence what they come to."""

from dataclasses import dataclass
from pathlib import Path

from switchq.bitmap import FULL
from switchq.posttraining.report.compare import Group, Row, groups, kind, score
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.text import bits_text, short

ENOUGH = 98.0
"""Percent of the score at 16 bits that a bitmap has to keep to be the one named first."""


@dataclass(frozen=True)
class Fact:
    """A thing to know about the results, such as the base model."""

    name: str
    value: str


@dataclass(frozen=True)
class Tile:
    """A uniform bit-width at a glance; percentages are of 16 bits, which are the reference."""

    bits: int
    score: str
    metric: str
    kept: str
    size: str


@dataclass(frozen=True)
class Summary:
    """Sentences, facts and tiles."""

    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    tiles: tuple[Tile, ...]
    tiles_on: str


def summary(sources: Sources) -> Summary:
    """What the top of the page says."""
    found = groups(sources)
    named = [(group, *one) for group in found for one in [kept_sentence(group)] if one is not None]
    sentences = tuple(text for _, text, _ in named)
    if not found:
        return Summary(sentences, facts(sources), (), "")
    group, file = (named[0][0], named[0][2]) if named else (found[0], found[0].rows[0].file)
    on = f"{file}, {group.title}" if _several_files(group) else group.title
    return Summary(sentences, facts(sources), _tiles(group, file), on)


def _several_files(group: Group) -> bool:
    return len({row.file for row in group.rows}) > 1


def kept_sentence(group: Group) -> tuple[str, str] | None:
    """What the smallest bitmap that is good enough keeps, or the best one if none is, and the file that it is of.

    There is none without a 16-bit record. F1 decides where there is one. Of several files the one whose bitmap is named
    is named too.
    """
    files = _several_files(group)
    rows = [row for row in group.rows if row.reference is not None and set(row.result.bits) != {FULL}]
    known = [(kept, row) for row in rows for kept in [row.kept("F1")] if kept is not None]
    if known:
        good = [(kept, row) for kept, row in known if kept >= ENOUGH]
        kept, row = (
            min(good, key=lambda one: (one[1].result.weight_mb, -one[0]))
            if good
            else max(known, key=lambda one: one[0])
        )
        where = f" in {row.file}" if files else ""
        of_size = f"at {row.size:.0f} % of its size ({group.title})"
        return f"{_name(row)}{where} keeps {kept:.1f} % of the 16-bit F1 {of_size}.", row.file
    for metric in group.metrics:
        if metric == "F1":
            continue
        ratios = [(kept, row) for row in rows for kept in [row.kept(metric)] if kept is not None]
        if ratios:
            good = [(kept, row) for kept, row in ratios if kept <= 200 - ENOUGH]
            kept, row = (
                min(good, key=lambda one: one[1].result.weight_mb) if good else min(ratios, key=lambda one: one[0])
            )
            where = f" in {row.file}" if files else ""
            change = (
                f"raises the {metric} by {kept - 100:.1f} %"
                if kept >= 100
                else f"lowers the {metric} by {100 - kept:.1f} %"
            )
            of_size = f"at {row.size:.0f} % of the 16-bit size ({group.title})"
            return f"{_name(row)}{where} {change} {of_size}.", row.file
    return None


def _name(row: Row) -> str:
    result = row.result
    if kind(result.bits) == "uniform":
        return f"{result.bits[0]} bits"
    label = short(result.label, 48)
    return f"The bitmap {label} ({bits_text(result.average_bits)} bits on average)"


def facts(sources: Sources) -> tuple[Fact, ...]:
    """Base model, checkpoint, data and device, each distinct value once."""
    records = [one.result.run for file in sources.results for one in file.scored]
    records += [run.record for run in sources.runs]
    records += [scored.result.run for one in sources.searches for scored in one.dev]
    records += [one.run for _, one in sources.sensitivities]
    records += [run.run for one in sources.sweeps for run in one.runs]
    records += [one.content["run"] for one in sources.transfers]
    records += [run for one in sources.searches for run in [one.content.get("run")] if isinstance(run, dict)]
    names = {"base": "Base model", "checkpoint": "Checkpoint", "data": "Data", "device": "Device"}
    found = []
    for key, name in names.items():
        values = list(dict.fromkeys(str(record[key]) for record in records if record.get(key)))
        shown = list(dict.fromkeys(value if key == "device" else _tail(value) for value in values))
        if shown:
            found.append(Fact(name, ", ".join(shown[:2]) + (f" and {len(shown) - 2} more" if len(shown) > 2 else "")))
    return tuple(found)


def _tail(value: str) -> str:
    parts = Path(value).parts
    return value if len(value) <= 44 else "…/" + "/".join(parts[-3:])


def _tiles(group: Group, file: str) -> tuple[Tile, ...]:
    """The uniform bit-widths of one file."""
    metric = next(iter(group.metrics), None)
    if metric is None:
        return ()
    tiles: dict[int, Tile] = {}
    for row in (row for row in group.rows if row.file == file):
        bits, value = row.result.bits[0], score(row.result, metric)
        if kind(row.result.bits) != "uniform" or value is None or bits in tiles:
            continue
        kept = row.kept(metric) if bits != FULL else None
        tiles[bits] = Tile(
            bits,
            f"{value:.1f}" if metric == "F1" else f"{value:,.1f}",
            "F1" if metric == "F1" else metric,
            "reference" if bits == FULL else "" if kept is None else f"{kept:.1f} % of 16 bits",
            f"{row.result.weight_mb:,.2f} MB" + ("" if row.size is None or bits == FULL else f", {row.size:.0f} %"),
        )
    return tuple(tiles[bits] for bits in sorted(tiles, reverse=True))
