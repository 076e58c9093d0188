"""The result of a search, for people and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from switchq.bitmap import Bitmap
from switchq.evaluation.tables import perplexity_text
from switchq.posttraining.search.front import Point, hypervolume
from switchq.posttraining.search.metric import Metric
from switchq.posttraining.search.objective import Scored
from switchq.posttraining.search.study import Study, references

KIND = "search"


def point_record(study: Study, scored: Scored) -> dict[str, Any]:
    """One evaluated bitmap as plain values; figures as in the table, `drop` relative (0.3 is 30 %)."""
    metric = study.objective.metric
    return {
        "bitmap": str(scored.bitmap),
        "bits": list(scored.bitmap),
        "average_bits": study.space.average_bits(scored.bitmap),
        "weight_mb": study.space.weight_mb(scored.bitmap),
        **scored.figures,
        "drop": metric.drop(scored.figures[metric.name], study.objective.full_figure),
        "within_budget": study.verdicts[scored.bitmap],
        "tokens_per_s": scored.tokens_per_s,
        "questions": scored.questions,
        "method": study.found_by[scored.bitmap],
    }


def result_record(
    study: Study,
    methods: Mapping[str, Mapping[str, Any]],
    chosen: Scored,
    dev: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole result as plain values."""
    labelled = labels(study)
    front = study.front()
    return {
        "kind": KIND,
        "run": run,
        "settings": settings,
        "methods": methods,
        "hypervolume": hypervolume(map(study.point, study.points.values()), reference_point(study)),
        "points": [point_record(study, scored) for scored in study.points.values()],
        "front": [point_record(study, scored) for scored in front],
        "baselines": [
            {"label": label, **point_record(study, study.points[bitmap])} for bitmap, label in labelled.items()
        ],
        "chosen": {**point_record(study, chosen), "within_limits": study.fits(chosen.bitmap)},
        "dev": list(dev),
    }


def reference_point(study: Study) -> Point:
    """Where the hypervolume of a search is measured from (see `corner`)."""
    objective = study.objective
    return corner(
        objective.metric, objective.full_figure, objective.budget, study.price(study.space.bitmap(study.space.full))
    )


def corner(metric: Metric, full_figure: float, budget: float, full_cost: float) -> Point:
    """The cost of full precision, and a metric of nothing: F1 or EM of 0; for perplexity and KL, what twice the budget
    allows."""
    allowed = 2 * budget
    nothing = {"F1": 0.0, "EM": 0.0, "perplexity": full_figure * (1 + allowed), "KL": allowed}[metric.name]
    return full_cost, nothing


def labels(study: Study) -> dict[Bitmap, str]:
    """The reference bitmaps with their short names."""
    return {Bitmap.parse(text, study.space.names): text for text in references(study.space.widths)}


def results_table(study: Study, shown: Sequence[Bitmap], chosen: Bitmap, dev: Sequence[Mapping[str, Any]]) -> Table:
    """One row per bitmap, smallest first; a star marks the front, an arrow the chosen bitmap."""
    metric, named = study.objective.metric, labels(study)
    front = {scored.bitmap for scored in study.front()}
    scored_on_dev = {tuple(record["bits"]): record for record in dev}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("bitmap", vertical="bottom", no_wrap=True)
    head = ["avg\nbits", "weight\nMB", f"search\n{metric.name}", "drop\n%"]
    head += [f"dev {metric.name}\n(95 %)"] if dev else []
    for name in head:
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("found by", vertical="bottom", no_wrap=True)
    for bitmap in shown:
        scored = study.points[bitmap]
        figure = scored.figures[metric.name]
        cells = [
            f"{study.space.average_bits(bitmap):.2f}",
            f"{study.space.weight_mb(bitmap):,.2f}",
            figure_text(figure, metric.name),
            number(100 * metric.drop(figure, study.objective.full_figure)),
        ]
        cells += [_dev_cell(scored_on_dev.get(tuple(bitmap)), metric.name)] if dev else []
        mark = ("→" if bitmap == chosen else " ") + ("*" if bitmap in front else " ")
        style = "bold" if bitmap == chosen else ""
        table.add_row(mark, named.get(bitmap, "mixed"), *cells, study.found_by[bitmap], style=style)
    return table


def _dev_cell(record: Mapping[str, Any] | None, name: str) -> str:
    if record is None:
        return ""
    key = name.lower() if name in ("F1", "EM") else name
    low, high = record[f"{key}_interval"]
    value, low, high = (figure_text(end, name) for end in (record[name], low, high))
    return f"{value} ({low}-{high})"


def figure_text(value: float, metric: str) -> str:
    """A value of a metric in few characters; perplexities as everywhere, and no KL that is not 0 as 0."""
    if metric == "perplexity":
        return perplexity_text(value)
    return f"{value:.1e}" if metric == "KL" and 0 < value < 1e-3 else number(value)


def number(value: float) -> str:
    """A figure in few characters."""
    if not abs(value) < 1e15:
        return "inf"
    if abs(value) >= 1e4:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    digits = 3 if abs(value) < 1 and value != 0 else 1
    return f"{unsigned_zero(value, digits):,.{digits}f}"


def unsigned_zero(value: float, digits: int) -> float:
    """A figure with so many digits after the point, of which -0.0 is 0.0."""
    return round(value, digits) + 0.0
