"""Training curves per bitmap."""

from collections.abc import Mapping

from switchq.plots.curves import curve_chart
from switchq.posttraining.report.content import Figure, Section, made_from
from switchq.posttraining.report.events import by_label
from switchq.posttraining.report.sources import Sources, TrainingRun
from switchq.posttraining.report.text import slug

PARTS = {
    "loss": ("The loss over all bitmaps", "Loss (nats per token)"),
    "ce": ("Cross-entropy of each bitmap", "Cross-entropy (nats per token)"),
    "kd": ("Distillation loss of each bitmap", "Distillation loss (nats per token)"),
    "stored kd": ("Distillation from stored predictions", "Distillation loss (nats per token)"),
    "F1": ("F1 on held-out questions", "F1 (%)"),
    "EM": ("Exact match on held-out questions", "EM (%)"),
    "gradient norm": ("Gradient norm", "Gradient norm"),
    "learning rate": ("Learning rate", "Learning rate"),
    "bit schedule": ("Bit schedule", "Mean width of the pass (bits)"),
}
"""Quantities in the order shown: what the figure is called, and its axis with the unit."""

LOGARITHMIC = ("ce", "kd", "stored kd", "gradient norm")


def training(sources: Sources) -> Section | None:
    """One figure per quantity that the runs logged."""
    figures = [figure for run in sources.runs for figure in _figures(run, len(sources.runs) > 1)]
    return Section("training", "Training", tuple(figures)) if figures else None


def _figures(run: TrainingRun, several: bool) -> list[Figure]:
    figures = []
    perplexities = {tag.partition("/")[0] for tag in run.curves if tag.partition("/")[0].endswith(" perplexity")}
    extra = {
        part: (part[0].upper() + part[1:], f"{part[0].upper()}{part[1:]} (per token)") for part in sorted(perplexities)
    }
    made = made_from([run.path], [run.record], run.config)
    for part, (title, axis) in {**PARTS, **extra}.items():
        curves = {part: run.curves[part]} if part in run.curves else by_label(run.curves, part)
        if max((len(curve) for curve in curves.values()), default=0) < 2 or (
            part == "bit schedule" and _constant(curves)
        ):
            continue
        log = part in LOGARITHMIC or part in extra
        shown = f"{title}, {run.name}" if several else title
        words = f"Run {run.name}. " + ("Logarithmic axis. " if log else "")
        if max(len(curve) for curve in curves.values()) > 25:
            words += "Faint: as logged; strong: a moving average. "
        words += "Dashed lines are stripes." if any("/" in label for label in curves) else ""
        chart = curve_chart(curves, widths(curves), axis, logarithmic=log)
        figures.append(Figure(slug(f"training-{part}-{run.name}"), shown, words.strip(), chart, made, wide=False))
    return figures


def widths(labels: Mapping[str, object]) -> dict[str, float]:
    """The mean width that a label states: `8`, `8/4`; other labels have none."""
    found = {}
    for label in labels:
        parts = label.split("/")
        if all(part.isascii() and part.isdigit() for part in parts):
            found[label] = sum(map(int, parts)) / len(parts)
    return found


def _constant(curves: Mapping[str, tuple[tuple[int, float], ...]]) -> bool:
    return all(len({value for _, value in curve}) == 1 for curve in curves.values())
