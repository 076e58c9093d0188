"""Transfers: gaps with their intervals, perplexities, how layers were matched and which transfer best."""

import math
from typing import Any

from switchq.plots.heatmap import heat_map
from switchq.plots.transfer import gap_chart
from switchq.posttraining.report.content import Column, Figure, Made, Section, Table, made_from, table
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.text import short, slug
from switchq.posttraining.report.transfers import Transfer
from switchq.posttraining.transfer.layers import LayerError, components
from switchq.posttraining.transfer.plan import RTN
from switchq.posttraining.transfer.strategies import CONTROLS

VERDICTS = "Below 5 % is excellent, below 10 % good, up to 20 % moderate, above limited."


def transfer(sources: Sources) -> Section | None:
    """Figures and tables of all transfers."""
    blocks = [block for number, one in enumerate(sources.transfers, 1) for block in _blocks(one, number)]
    return Section("transfer", "Transfer of quantisation scales", tuple(blocks)) if blocks else None


def _blocks(one: Transfer, number: int) -> list[Figure | Table]:
    made = made_from([one.path], [one.content["run"]], more=one.content["setting"])
    tag = f"{slug(one.name)}-{number}"
    tables = [_gaps(one, made, tag), _rows(one, made, tag), _components(one, made, tag), _matching(one, made, tag)]
    return [*_figures(one, made, tag), *_best(one, made, tag), *(block for block in tables if block is not None)]


def _chain(one: Transfer) -> str:
    return " to ".join(short(name.rpartition("/")[2]) for name in one.models)


def _figures(one: Transfer, made: Made, tag: str) -> list[Figure]:
    found = []
    for task in dict.fromkeys(gap.task for gap in one.outcome.gaps):
        rows: list[dict[str, Any]] = [
            {
                "strategy": f"{gap.name} ({gap.form})",
                "average_bits": float(gap.bits),
                "gap": 100 * gap.gap,
                "low": 100 * (gap.gap if gap.low is None else gap.low),
                "high": 100 * (gap.gap if gap.high is None else gap.high),
                "verdict": gap.verdict,
            }
            for gap in sorted(one.outcome.gaps, key=lambda gap: gap.form, reverse=True)
            if gap.task == task and math.isfinite(gap.gap)
        ]
        if rows:
            title = f"{_chain(one)}: transfer gap on {short(task)}"
            words = (
                "How much larger the perplexity is than with the target's own calibration in the same form; left is "
                f"better. Bars are paired 95 % bootstrap intervals over windows. {VERDICTS}"
            )
            found.append(Figure(slug(f"transfer-{task}-{tag}"), title, words, gap_chart(rows, short(task)), made))
    return found


def _best(one: Transfer, made: Made, tag: str) -> list[Figure]:
    """For each form, the layers under the strategy whose layers lose least."""
    found = []
    for form in dict.fromkeys(layer.form for layer in one.outcome.layers):
        names = [
            name
            for name in dict.fromkeys(layer.name for layer in one.outcome.layers if layer.form == form)
            if name != RTN and name not in CONTROLS
        ]
        if not names:
            continue
        name = min(
            names, key=lambda name: _mean_log([x for x in one.outcome.layers if (x.form, x.name) == (form, name)])
        )
        rows = [
            {"layer": layer.layer, "bits": layer.bits, "score": layer.against_own}
            for layer in one.outcome.layers
            if (layer.form, layer.name) == (form, name) and math.isfinite(layer.against_own)
        ]
        title = f"Which layers transfer best: {name} ({form})"
        words = (
            "Output error of a layer over that with the target's own calibration: 1 is as good, 2 is twice the error."
        )
        found.append(
            Figure(slug(f"transfer-layers-{form}-{tag}"), title, words, heat_map(rows, "Error over own"), made)
        )
    return found


def _mean_log(layers: list[LayerError]) -> float:
    logs = [math.log(one.against_own) for one in layers if one.against_own > 0]
    return sum(logs) / len(logs) if logs else math.inf


def _gaps(one: Transfer, made: Made, tag: str) -> Table | None:
    gaps = one.outcome.gaps
    if not gaps:
        return None
    columns = [
        Column("Strategy", [gap.name for gap in gaps]),
        Column("Form", [gap.form for gap in gaps]),
        Column("Bits", [float(gap.bits) for gap in gaps], ".0f"),
        Column("Text", [gap.task for gap in gaps]),
        Column("Gap %", [_percent(gap.gap) for gap in gaps], "+.2f"),
        Column("±", [_percent(gap.spread) for gap in gaps], ".2f"),
        Column("From %", [_percent(gap.low) for gap in gaps], "+.2f"),
        Column("To %", [_percent(gap.high) for gap in gaps], "+.2f"),
        Column("Verdict", [gap.verdict for gap in gaps]),
        Column("Calibration s saved", [gap.saved_seconds for gap in gaps], ",.1f"),
    ]
    words = (
        "(PPL transferred - PPL own) / PPL own, the target's own calibration in the same form being 0; mean and spread "
        f"over seeds, 95 % interval over windows. {VERDICTS} rtn, permuted and random are controls."
    )
    return table(f"transfer-gaps-{tag}", f"{_chain(one)}: transfer gaps", words, columns, made)


def _rows(one: Transfer, made: Made, tag: str) -> Table:
    rows = one.outcome.rows
    columns = [
        Column("Model", [row.model for row in rows]),
        Column("Scales", [row.name for row in rows]),
        Column("Bits", [float(row.bits) for row in rows], ".0f"),
        Column("Seeds", [float(row.seeds) for row in rows], ".0f"),
    ]
    for task in one.content["tasks"]:
        columns += [
            Column(f"{task} perplexity", [_finite(row.scores.get(task)) for row in rows], "g"),
            Column(f"{task} ±", [_finite(row.spreads.get(task)) for row in rows], "g"),
            Column(f"{task} worse %", [_percent(row.worse.get(task)) for row in rows], "+.1f"),
        ]
    columns += [
        Column("Weights MB", [row.size_mb for row in rows], "g"),
        Column("Effective bits", [row.effective_bits for row in rows], ".2f"),
        Column("Quantise s", [row.seconds for row in rows], ",.1f"),
        Column("Peak memory MB", [row.peak_memory_mb for row in rows], ",.0f"),
        Column("Failed", [row.failed for row in rows]),
    ]
    words = " ".join(
        [
            "Worse: perplexity against that of the same model in full precision. One model is in memory at a time.",
            *(f"{warning}." for warning in one.content.get("warnings") or ()),
            *(f"{name} is left out: it {why}." for name, why in (one.content.get("left_out") or {}).items()),
        ]
    )
    return table(f"transfer-rows-{tag}", f"{_chain(one)}: perplexities", words, columns, made)


def _components(one: Transfer, made: Made, tag: str) -> Table | None:
    shares = components(one.outcome.layers)
    keys = list(dict.fromkeys((form, name) for form, name, _ in shares))
    if not keys:
        return None
    columns = [Column("Form", [form for form, _ in keys]), Column("Strategy", [name for _, name in keys])]
    for role in dict.fromkeys(layer.role for layer in one.outcome.layers):
        columns.append(Column(role, [shares.get((*key, role)) for key in keys], ".2f", "lower"))
    words = "Output error over that with the target's own calibration, geometric mean over layers and widths."
    return table(f"transfer-components-{tag}", "Which components transfer best", words, columns, made)


def _matching(one: Transfer, made: Made, tag: str) -> Table:
    rows = one.content["matching"]
    columns = [
        Column("Layer", [row.get("layer") for row in rows]),
        Column("Relative depth", [row.get("depth") for row in rows], ".2f"),
        Column("Takes after", [row.get("source") or "nothing: rounded plainly" for row in rows]),
        Column("Its relative depth", [row.get("source_depth") for row in rows], ".2f"),
    ]
    words = "By component and relative depth."
    return table(f"transfer-matching-{tag}", f"{_chain(one)}: matched layers", words, columns, made)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _percent(value: float | None) -> float | None:
    return 100 * value if value is not None and math.isfinite(value) else None
