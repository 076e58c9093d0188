"""Sensitivities as tables for people, narrow enough for a terminal of 80 columns."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from switchq.posttraining.sensitivity.result import Sensitivity

SHOWN = ("kl", "fisher", "mse", "mae")
"""Which score the table ranks layers by: the first of these that was measured."""

COLUMNS = 80


def sensitivity_tables(result: Sensitivity, top: int = 10) -> list[Table]:
    """The most sensitive layers at each width, by one score; as many tables as it takes to stay narrow."""
    score = next((name for name in SHOWN if name in result.scores), next(iter(result.scores)))
    names = short_names(result.layers)
    column = max(map(len, names)) + len(" 1.2e-03") + 2
    fit = max((COLUMNS - 3) // column, 1)
    tables = []
    for start in range(0, len(result.bits), fit):
        widths = result.bits[start : start + fit]
        table = _table(f"Most sensitive layers by {score}" if not start else None)
        table.add_column("", justify="right")
        for bits in widths:
            table.add_column(f"{bits} bits", no_wrap=True)
            table.add_column(score, justify="right", no_wrap=True)
        ranked = {bits: ranking(result.scores[score][bits])[:top] for bits in widths}
        for rank in range(min(top, len(names))):
            cells = [(names[ranked[bits][rank]], result.scores[score][bits][ranked[bits][rank]]) for bits in widths]
            table.add_row(str(rank + 1), *(text for name, value in cells for text in (name, f"{value:.1e}")))
        tables.append(table)
    return tables


def correlation_table(result: Sensitivity) -> Table:
    """Spearman's between the scores, over all layers and widths."""
    table = _table("Rank correlations")
    table.add_column("")
    for name in result.scores:
        table.add_column(name, justify="right", no_wrap=True)
    for name in result.scores:
        row = result.correlations[name]
        table.add_row(name, *("" if row[other] is None else f"{row[other]:.2f}" for other in result.scores))
    return table


def cost_table(result: Sensitivity) -> Table:
    """What was spent; scores that come from the same forwards share a row."""
    columns = {"seconds": "seconds", "forwards": "forwards\na batch", "forwards_naive": "naive\nway"}
    columns |= {"peak_memory_mb": "peak\nGPU MB"} if any("peak_memory_mb" in of for of in result.cost.values()) else {}
    table = _table("Cost")
    table.add_column("")
    for header in columns.values():
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    shared: dict[tuple[float, ...], list[str]] = {}
    for name, cost in result.cost.items():
        shared.setdefault(tuple(cost.values()), []).append(name)
    for names in shared.values():
        cost = result.cost[names[0]]
        table.add_row(" ".join(names), *(f"{cost[key]:,.1f}" if key in cost else "" for key in columns))
    return table


def ranking(values: Sequence[float]) -> list[int]:
    """Indices of the values, largest first."""
    return sorted(range(len(values)), key=lambda index: -values[index])


def short_names(names: Sequence[str]) -> list[str]:
    """Layer names without the dotted components that all of them begin with.

    >>> short_names(["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"])
    ['0.attn.c_attn', '1.mlp.c_fc']
    """
    parts = [name.split(".") for name in names]
    shared = 0
    while len({tuple(one[: shared + 1]) for one in parts}) == 1 and shared + 1 < min(map(len, parts)):
        shared += 1
    return [".".join(one[shared:]) for one in parts]


def _table(title: str | None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        min_width=len(title or ""),  # a title wraps at the width of its table
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
