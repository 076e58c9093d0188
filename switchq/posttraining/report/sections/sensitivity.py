"""How much each layer suffers at each width."""

import math
from pathlib import Path
from typing import Any

from switchq.plots.heatmap import TITLES, correlation_map, heat_map
from switchq.posttraining.report.content import Column, Figure, Made, Section, Table, made_from, table
from switchq.posttraining.report.reading import clean, number
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.text import slug, told_in_titles
from switchq.posttraining.sensitivity import Sensitivity

SHOWN = 20
"""Layers in the table of the most sensitive ones."""


def sensitivity(sources: Sources) -> Section | None:
    """A heat map per score, the correlations between scores, and a table of the most sensitive layers."""
    ends = told_in_titles([path for path, _ in sources.sensitivities])
    blocks = [
        block for end, (path, one) in zip(ends, sources.sensitivities) for block in _blocks(path, one, clean(end))
    ]
    return Section("sensitivity", "Sensitivity of the layers", tuple(blocks)) if blocks else None


def _blocks(path: Path, one: Sensitivity, where: str) -> list[Figure | Table]:
    """The figures and the table of a file; `where` ends their titles, to tell them from those of others."""
    cost: dict[str, Any] = {
        f"cost of {name}.{what}": value for name, of in one.cost.items() for what, value in of.items()
    }
    made = made_from([path], [one.run], more=cost)
    tag = slug(path.name)
    blocks: list[Figure | Table] = []
    for name, of in one.scores.items():
        rows = [
            {"layer": layer, "bits": bits, "score": value if math.isfinite(value) else None}
            for bits in one.bits
            for layer, value in zip(one.layers, of[bits])
        ]
        worst = max(
            (
                (layer, bits, value)
                for bits in one.bits
                for layer, value in zip(one.layers, of[bits])
                if not math.isnan(value)
            ),
            key=lambda cell: cell[2],
            default=None,
        )
        called = TITLES.get(name, name)
        title = f"{called}" + ("" if worst is None else f": {worst[0]} at {worst[1]} bits suffers most") + where
        words = "Each cell is one layer at one width; the more it stands out from the page, the more the model suffers."
        words += " Empty cells: not finite." if any(row["score"] is None for row in rows) else ""
        blocks.append(Figure(slug(f"sensitivity-{name}-{tag}"), title, words, heat_map(rows, called), made))
    if len(one.scores) > 1:
        blocks += _correlations(one, made, tag, where)
    return [*blocks, _table(one, path, tag, where)]


def _correlations(one: Sensitivity, made: Made, tag: str, where: str) -> list[Figure]:
    """A matrix over all layers and widths, and one for each width: ranks over several widths agree more easily."""
    found = []
    for bits in (None, *one.bits):
        suffix = "" if bits is None else f"@{bits}"
        rows = {
            name: {
                other: value
                for other in one.scores
                for value in [one.correlations.get(f"{name}{suffix}", {}).get(f"{other}{suffix}")]
            }
            for name in one.scores
        }
        if not any(value is not None for row in rows.values() for value in row.values()):
            continue
        over = "over all layers and widths" if bits is None else f"over the layers at {bits} bits"
        words = f"Spearman's rank correlation {over}: 1 means that both scores order the layers alike."
        name = f"sensitivity-correlations-{'all' if bits is None else bits}-{tag}"
        title = f"How far the scores agree, {over}{where}"
        found.append(Figure(name, title, words, correlation_map(rows), made, wide=False))
    return found


def _table(one: Sensitivity, path: Path, tag: str, where: str) -> Table:
    name, narrowest = next(iter(one.scores)), min(one.bits)
    order = sorted(range(len(one.layers)), key=lambda i: -one.scores[name][narrowest][i])[:SHOWN]
    columns = [
        Column("Layer", [one.layers[i] for i in order]),
        Column("Weights", [number(one.weights[i]) for i in order], ",.0f"),
        *(
            Column(f"{score}, {bits} bits", [v if math.isfinite(v := of[bits][i]) else None for i in order], ".3g")
            for score, of in one.scores.items()
            for bits in one.bits
        ),
    ]
    title = f"The {len(order)} most sensitive layers" if len(order) < len(one.layers) else "All layers"
    words = f"Ordered by {name} at {narrowest} bits."
    return table(f"sensitive-layers-{tag}", title + where, words, columns, made_from([path], [one.run]))
