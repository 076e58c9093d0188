"""A transfer on a terminal: how layers were matched, perplexities, gaps, and which layers transfer best."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from rich.table import Table

from switchq.commands.grouped_tables import Column, empty_table, fitting, grouped_table
from switchq.commands.ptq_tables import figure_text
from switchq.posttraining.transfer.layers import components
from switchq.posttraining.transfer.matching import Match
from switchq.posttraining.transfer.results import Gap, Outcome, Row


def tables_of(found: Outcome, matches: Sequence[Match], tasks: Sequence[str], width: int) -> list[Table]:
    """All tables.

    Args:
        found: what the transfer came to.
        matches: of the target's inputs.
        tasks: the text sets.
        width: of the terminal, characters.
    """
    return [
        _matching(matches),
        *_perplexities(found.rows, tasks, width),
        *_gaps(found.gaps, tasks, width),
        *_layers(found, width),
    ]


def _matching(matches: Sequence[Match]) -> Table:
    """Blocks that their components match alike on one line."""
    table = empty_table("Layers by component and relative depth")
    for head in ("target\nblock", "relative\ndepth", "source\nblock", "relative\ndepth"):
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("components", vertical="bottom", overflow="fold")
    for block in dict.fromkeys(one.target.place.block for one in matches):
        here = [one for one in matches if one.target.place.block == block]
        for other in dict.fromkeys(None if one.source is None else one.source.place.block for one in here):
            group = [one for one in here if (None if one.source is None else one.source.place.block) == other]
            at = group[0].source_depth
            cells = (str(block), f"{group[0].depth:.2f}", "none" if other is None else str(other))
            roles = ", ".join(one.target.place.role for one in group)
            table.add_row(*cells, "" if at is None else f"{at:.2f}", "all" if len(group) == len(here) > 1 else roles)
    return table


def _perplexities(rows: Sequence[Row], tasks: Sequence[str], width: int) -> list[Table]:
    rows = sorted(rows, key=lambda row: -row.bits)  # stable: source before target
    several = any(row.seeds > 1 for row in rows)
    names = [f"{row.model} {row.name}{' (failed)' if row.failed else ''}" for row in rows]
    fixed: list[Column] = [("model", names)]
    columns: list[Column] = []
    for task in tasks:
        cells = [
            figure_text(row.scores.get(task), "perplexity")
            + (f"±{figure_text(row.spreads[task], 'perplexity')}" if task in row.spreads else "")
            for row in rows
        ]
        columns.append((task, cells))
        columns.append(("worse\n%", [_percent(row.worse.get(task)) for row in rows]))
    columns += [
        ("MB", [figure_text(row.size_mb, ",.2f") for row in rows]),
        ("effective\nbits", [figure_text(row.effective_bits, ".2f") for row in rows]),
        ("quantise\nseconds", [figure_text(row.seconds, ",.1f") for row in rows]),
        ("peak\nMB", [figure_text(row.peak_memory_mb, ",.0f") for row in rows]),
    ]
    seeds = max((row.seeds for row in rows), default=1)
    title = "Perplexity" + (f", mean ± spread over {seeds} seeds" if several else "")
    widths = [row.bits for row in rows]
    return [grouped_table(widths, fixed, chunk, title) for chunk in fitting(columns, fixed, width)]


def _gaps(gaps: Sequence[Gap], tasks: Sequence[str], width: int) -> list[Table]:
    keys = list(dict.fromkeys((one.bits, one.form, one.name) for one in gaps))
    if not keys:
        return []
    by = {(one.bits, one.form, one.name, one.task): one for one in gaps}
    fixed: list[Column] = [("form", [form for _, form, _ in keys]), ("strategy", [name for _, _, name in keys])]
    columns: list[Column] = []
    for task in tasks:
        cells = [_gap_text(by[(*key, task)]) for key in keys]
        columns.append((f"{task}\ngap %", cells))
        columns.append(("\nverdict", [by[(*key, task)].verdict for key in keys]))
    columns.append(("seconds\nsaved", [figure_text(by[(*key, tasks[0])].saved_seconds, ",.1f") for key in keys]))
    title = "Gap to own calibration in the same form (95 % interval)"
    widths = [bits for bits, _, _ in keys]
    return [grouped_table(widths, fixed, chunk, title) for chunk in fitting(columns, fixed, width)]


def _gap_text(one: Gap) -> str:
    interval = "" if one.low is None or one.high is None else f" ({_percent(one.low)}, {_percent(one.high)})"
    return f"{_percent(one.gap)}{interval}"


def _percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{100 * value:+,.{1 if abs(value) < 10 else 0}f}"


def _layers(found: Outcome, width: int) -> list[Table]:
    """Error over that of the target's own calibration, geometric mean over layers and widths."""
    if not found.layers:
        return []
    roles = list(dict.fromkeys(one.role for one in found.layers))
    shares = components(found.layers)
    keys = list(dict.fromkeys((form, name) for form, name, _ in shares))
    best = [_ends(found, *key) for key in keys]
    fixed: list[Column] = [("form", [form for form, _ in keys]), ("strategy", [name for _, name in keys])]
    columns: list[Column] = []
    for role in roles:
        head = role.replace("attention", "attn").removesuffix("put").replace(" ", "\n")  # attn in, MLP out
        columns.append((head, [f"{shares[form, name, role]:.2f}" for form, name in keys]))
    ends: list[Column] = [("transfers best", [low for low, _ in best]), ("worst", [high for _, high in best])]
    tables = []
    for chunk in fitting([*columns, *ends], fixed, width):
        table = empty_table("Output error of layers over that with own calibration (1 is as good)")
        for head, _ in (*fixed, *chunk):
            justify: Literal["left", "right"] = "right" if head in dict(columns) else "left"
            table.add_column(head, justify=justify, vertical="bottom", no_wrap=True)
        for cells in zip(*(cells for _, cells in (*fixed, *chunk)), strict=True):
            table.add_row(*cells)
        tables.append(table)
    return tables


def _ends(found: Outcome, form: str, name: str) -> tuple[str, str]:
    """The layers with the least and with the largest error against own, over all widths."""
    ratios: dict[str, list[float]] = {}
    for one in found.layers:
        if (one.form, one.name) == (form, name):
            ratios.setdefault(one.layer, []).append(one.against_own)
    means = {layer: statistics.geometric_mean(found) for layer, found in ratios.items()}
    ends = (min(means, key=means.__getitem__), max(means, key=means.__getitem__))
    low, high = (f"{means[layer]:.2f} {_brief(layer)}" for layer in ends)
    return low, high


def _brief(layer: str) -> str:
    """From the block's number on."""
    parts = layer.split(".")
    return ".".join(parts[next((i for i, part in enumerate(parts) if part.isdigit()), 0) :])
