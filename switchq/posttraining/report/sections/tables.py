"""Comparison tables: every record of every file."""

from collections.abc import Callable
from typing import Any

from switchq.posttraining.report.compare import Group, Row, groups, score
from switchq.posttraining.report.content import Column, Section, Table, table
from switchq.posttraining.report.sections.quality import made_of
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.text import slug


def tables(sources: Sources) -> Section | None:
    """One table per set of questions or texts."""
    made = [_table(group, number) for number, group in enumerate(groups(sources), 1)]
    return Section("comparison", "Comparison", tuple(made)) if made else None


def _table(group: Group, number: int) -> Table:
    rows = group.rows

    def each(value: Callable[[Row], Any]) -> list[Any]:
        return [value(row) for row in rows]

    texts = [metric for metric in group.metrics if metric != "F1"]
    several = len({row.file for row in rows}) > 1
    both = len({row.result.adapters for row in rows}) > 1
    columns = [
        Column("Bitmap", each(lambda r: r.result.label)),
        Column("File", each(lambda r: r.file) if several else []),
        Column("Adapters", each(lambda r: "on" if r.result.adapters else "off") if both else []),
        Column("Average bits", each(lambda r: r.result.average_bits), ".2f"),
        Column("EM %", each(lambda r: r.result.EM), ".1f", "higher"),
        Column("F1 %", each(lambda r: r.result.F1), ".1f", "higher"),
        Column("F1 kept %", each(lambda r: r.kept("F1")), ".1f", "higher"),
        Column("F1 before %", each(lambda r: None if r.before is None else r.before.F1), ".1f"),
        Column("HasAns F1 %", each(lambda r: r.result.HasAns_f1), ".1f", "higher"),
        Column("NoAns F1 %", each(lambda r: r.result.NoAns_f1), ".1f", "higher"),
        Column("Answer perplexity", each(lambda r: r.result.answer_perplexity), "g", "lower"),
        *(Column(name, _perplexities(rows, name), "g", "lower") for name in texts),
        Column("Weights MB", each(lambda r: r.result.weight_mb), "g", "lower"),
        Column("Size %", each(lambda r: r.size), ".1f", "lower"),
        Column("Tokens/s", each(lambda r: r.result.tokens_per_s), ",.0f", "higher"),
        Column("Latency ms", each(lambda r: r.result.latency_ms), ",.1f", "lower"),
        Column("Peak memory MB", each(lambda r: r.result.peak_memory_mb or None), ",.0f"),
    ]
    words = "The best value of a column is in bold. Click a heading to sort."
    if any(row.reference for row in rows):
        words += " Percentages kept and of size are against 16 bits in the same file."
    return table(slug(f"results-{group.title}", number), f"Results on {group.title}", words, columns, made_of(rows))


def _perplexities(rows: tuple[Row, ...], metric: str) -> list[float | None]:
    return [score(row.result, metric) for row in rows]
