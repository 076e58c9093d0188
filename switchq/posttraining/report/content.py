"""What a page consists of, before it is HTML: sections of figures and tables, each with how it was made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from switchq.plots.rows import AnyChart


@dataclass(frozen=True)
class Made:
    """How a figure or table came about.

    Attributes:
        files: what it was read from.
        command: the command lines that wrote those files, each once.
        settings: name -> value, as texts.
        config: the run's configuration as text, or empty.
    """

    files: tuple[str, ...]
    commands: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    config: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its words; `slug` names its files, `title` states what is seen."""

    slug: str
    title: str
    caption: str
    chart: AnyChart
    made: Made
    wide: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it is sorted by; None sorts last."""

    text: str
    value: float | str | None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table; columns that are numeric are set to the right."""

    slug: str
    title: str
    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    made: Made


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    slug: str
    title: str
    blocks: tuple[Figure | Table, ...] = field(default=())


@dataclass(frozen=True)
class Column:
    """A column of a table: values by row, how to write one, and which end of it is good."""

    name: str
    values: Sequence[Any]
    form: str = ""
    better: Literal["higher", "lower", ""] = ""


def table(slug: str, title: str, caption: str, columns: Sequence[Column], made: Made) -> Table:
    """A table from its columns; those without any value are left out. The best values are marked if they differ."""
    kept = [column for column in columns if any(value not in (None, "") for value in column.values)]
    cells = [_cells(column) for column in kept]
    return Table(
        slug,
        title,
        caption,
        tuple(column.name for column in kept),
        tuple(bool(column.form) for column in kept),
        tuple(zip(*cells)),
        made,
    )


def _cells(column: Column) -> list[Cell]:
    if not column.form:
        return [
            Cell("" if value is None else str(value), None if value is None else str(value)) for value in column.values
        ]
    texts = [write(value, column.form) for value in column.values]
    known = [value for value in column.values if value is not None]
    best = None
    if column.better and len(known) > 1 and min(known) != max(known):
        best = write(max(known) if column.better == "higher" else min(known), column.form)
    return [Cell(text, value, value is not None and text == best) for text, value in zip(texts, column.values)]


def write(value: float | None, form: str) -> str:
    """A number in a format; `g` alone means three significant digits or more, with separators where they help."""
    if value is None:
        return ""
    if form == "g":
        size = abs(value)
        return f"{value:.3g}" if not 0.1 <= size < 1e6 else f"{value:,.{2 if size < 100 else 1 if size < 1000 else 0}f}"
    return format(value, form)


_FIRST = (
    "base",
    "base_hash",
    "checkpoint",
    "checkpoint_sha256",
    "data",
    "data_sha256",
    "device",
    "dtype",
    "seed",
    "time",
)


def made_from(
    paths: Sequence[Path | str],
    records: Sequence[Mapping[str, Any]],
    config: str = "",
    more: Mapping[str, Any] | None = None,
) -> Made:
    """How something was made, from the `run` records of its files; where records differ, all values are listed."""
    commands = dict.fromkeys(str(one["command"]) for one in records if one.get("command"))
    values: dict[str, dict[str, None]] = {}
    for flat in [dict(more or {}), *map(_flat_record, records)]:
        for name, value in flat.items():
            if value is not None:
                values.setdefault(name, {})[_text(value)] = None
    settings = tuple(
        (name, " | ".join(list(texts)[:4]) + (" | …" if len(texts) > 4 else "")) for name, texts in values.items()
    )
    return Made(tuple(dict.fromkeys(str(path) for path in paths)), tuple(commands), settings, config)


def _flat_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A `run` record without nesting: what was run on what, the settings, and the versions on one line."""
    flat = {name: record[name] for name in _FIRST if record.get(name) is not None}
    settings, versions = record.get("settings"), record.get("versions")
    if isinstance(settings, Mapping):
        flat |= _flat(settings)
    if isinstance(versions, Mapping):
        flat["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items())
    return flat


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], {}):
            flat[f"{prefix}{name}"] = value
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
