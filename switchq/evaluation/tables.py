"""Results as tables for people, narrow enough for a terminal of 80 columns."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from switchq.evaluation.result import EvalResult

_Column = tuple[str, Callable[[EvalResult], str]]

WIDEST = 10_000
"""Columns of a table that is measured."""


def show_table(console: Console, title: str, table: Table) -> None:
    """Print a table below its title, which a terminal may wrap, but which can be copied as one line.

    A table of more columns than fit is printed as wide as its figures are: cut ones say nothing.
    """
    console.print(Text(title, style="italic"), soft_wrap=True)
    needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).minimum
    if needed > console.width:
        table.width = needed
    console.print(table, crop=False)


def results_table(results: Sequence[EvalResult]) -> Table:
    """One row per bitmap: scores, then sizes, then speed. Columns that hold nothing in any row are left out."""
    if not results:
        raise ValueError("no results to show")
    memory = "GPU" if results[0].peak_memory_of == "cuda" else "RAM"
    columns: list[_Column] = [
        ("avg\nbits", lambda r: _bits(r.average_bits)),
        *((name, _part(name)) for name in ("EM", "F1")),
        *((name, _part(key)) for name, key in (("HasAns\nF1", "HasAns_f1"), ("NoAns\nF1", "NoAns_f1"))),
        ("answer\nppl", lambda r: perplexity_text(r.answer_perplexity) if r.n_questions else ""),
        *((f"{name}\nppl", _text(name)) for name in dict.fromkeys(n for r in results for n in r.text_perplexity)),
        ("weight\nMB", lambda r: _size(r.weight_mb)),
        ("tokens\n/s", _part("tokens_per_s", ",.0f")),
        ("latency\nms", _part("latency_ms", ",.1f")),
        (f"peak\n{memory} MB", lambda r: f"{r.peak_memory_mb:,.0f}"),
    ]
    table = _table()
    table.add_column("bitmap", overflow="fold", vertical="bottom", min_width=len("bitmap"))
    for name, cell in columns:
        if any(cell(result) for result in results):
            table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    kept = [cell for _, cell in columns if any(cell(result) for result in results)]
    for result in results:
        table.add_row(result.label, *(cell(result) for cell in kept))
    return table


def before_after_table(before: Sequence[EvalResult], after: Sequence[EvalResult]) -> Table:
    """What training changed: one row per bitmap, scores as `before -> after`.

    The weights of a bitmap take the same room before and after, so that is one figure.

    Raises:
        ValueError: the two sequences are not about the same bitmaps.
    """
    if [result.bits for result in before] != [result.bits for result in after]:
        raise ValueError("the results before and after training are not about the same bitmaps")
    scores: list[_Column] = [
        ("EM", _part("EM")),
        ("F1", _part("F1")),
        ("answer\nperplexity", lambda r: perplexity_text(r.answer_perplexity) if r.n_questions else ""),
        *((f"{name}\nperplexity", _text(name)) for name in dict.fromkeys(n for r in after for n in r.text_perplexity)),
    ]
    costs: list[_Column] = [("weight\nMB", lambda r: _size(r.weight_mb)), ("tokens\n/s", _part("tokens_per_s", ",.0f"))]
    shown, costs = ([one for one in some if any(one[1](result) for result in after)] for some in (scores, costs))
    table = _table()
    table.add_column("bitmap", overflow="fold", vertical="bottom", min_width=len("bitmap"))
    for name in ("avg\nbits", *(name for name, _ in shown), *(name for name, _ in costs)):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    for old, new in zip(before, after, strict=True):
        table.add_row(
            new.label,
            _bits(new.average_bits),
            *(f"{cell(old)} → [bold]{cell(new)}[/]" for _, cell in shown),
            *(cell(new) for _, cell in costs),
        )
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _part(name: str, form: str = ".1f") -> Callable[[EvalResult], str]:
    def cell(result: EvalResult) -> str:
        value: Any = getattr(result, name)
        return "" if value is None else format(value, form)

    return cell


def _text(name: str) -> Callable[[EvalResult], str]:
    return lambda result: perplexity_text(result.text_perplexity[name]) if name in result.text_perplexity else ""


def _bits(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _size(megabytes: float) -> str:
    return f"{megabytes:,.{2 if megabytes < 10 else 1 if megabytes < 1000 else 0}f}"


def perplexity_text(value: float | None) -> str:
    """A perplexity as a table writes it: `inf` where it is not finite."""
    if value is None or not math.isfinite(value):
        return "inf"
    if value < 100:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value < 1e4 else f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
