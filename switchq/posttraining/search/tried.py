"""What a search evaluated on all questions, question by question: in memory, and read back from its files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from switchq.bitmap import FULL
from switchq.errors import UserError, reason
from switchq.posttraining.search.front import Point
from switchq.posttraining.search.metric import Array, Metric
from switchq.posttraining.search.output import SearchFiles
from switchq.posttraining.search.report import KIND, corner, reference_point
from switchq.posttraining.search.study import Study

MODEL = ("base_hash", "checkpoint_sha256", "data_sha256")
"""What of `run` two searches must share to be compared."""

SETTINGS = ("questions", "seed", "metric", "cost", "budget", "max_new_tokens", "grid", "group_size", "scale")
"""What of `settings`."""


@dataclass(frozen=True)
class Tried:
    """All bitmaps that a search evaluated on all questions.

    Attributes:
        metric: that of the search.
        costs_P: the cost of each of P bitmaps.
        values_PQ: its value on each of Q questions, as `Metric` explains them.
        weights_Q: one weight per question.
        corner: cost and loss from which hypervolume is measured.
    """

    metric: Metric
    costs_P: Array
    values_PQ: Array
    weights_Q: Array
    corner: Point

    @classmethod
    def of_study(cls, study: Study) -> "Tried":
        """What a search has found so far."""
        objective, bitmaps = study.objective, list(study.points)
        return cls(
            objective.metric,
            np.array([study.price(bitmap) for bitmap in bitmaps]),
            np.stack([objective.known(bitmap) for bitmap in bitmaps]),
            objective.full.weights,
            reference_point(study),
        )

    def losses(self, counts_RQ: Array) -> Array:
        """(R, P): the loss of each bitmap on R resamples, given how often each question is in them."""
        means_RP = counts_RQ @ self.values_PQ.T / (counts_RQ @ self.weights_Q)[:, None]
        losses_RP: Array = np.vectorize(self._loss)(means_RP)
        return losses_RP

    def _loss(self, mean: float) -> float:
        return self.metric.loss(self.metric.figure_of_mean(mean))


@dataclass(frozen=True)
class SearchRun:
    """A finished search.

    Attributes:
        path: its JSON file.
        tried: what it evaluated on all questions.
        subject: what it searched, and by which questions; two searches of one subject can be compared.
    """

    path: Path
    tried: Tried
    subject: Mapping[str, Any]


def read_search(path: Path, content: Mapping[str, Any]) -> SearchRun:
    """A finished search with its values by question, which its journal holds.

    Args:
        path: the JSON file; the journal lies beside it.
        content: what the file holds.

    Raises:
        UserError: no file of a search, damaged, or without its journal.
    """
    if content.get("kind") != KIND:
        raise UserError(f"{path} is not the result of `switchq search`")
    journal = SearchFiles(path.with_suffix(".csv")).journal
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = f"which holds the values by question of {path.name}: {reason(error)}"
        raise UserError(f"cannot read {journal}, {why}") from None
    try:
        settings, points = content["settings"], content["points"]
        metric, cost = Metric(settings["metric"]), settings["cost"]
        known, weights = _values(_evaluations(lines), metric.name)
        values_PQ = np.array([[known[tuple(point["bits"])][row] for row in sorted(weights)] for point in points])
        weights_Q = np.array([weights[row] for row in sorted(weights)])
        (full,) = (point for point in points if set(point["bits"]) == {FULL})
        nothing = corner(metric, float(full[metric.name]), float(settings["budget"]), float(full[cost]))
        costs_P = np.array([float(point[cost]) for point in points])
        subject = {name: content["run"].get(name) for name in MODEL} | {name: settings.get(name) for name in SETTINGS}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} and {journal.name} are damaged, or not of one search: {error!r}") from None
    return SearchRun(path, Tried(metric, costs_P, values_PQ, weights_Q, nothing), subject)


def _evaluations(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    yield from (entry["eval"] for entry in map(json.loads, lines) if "eval" in entry)


def _values(
    evaluations: Iterable[Mapping[str, Any]], name: str
) -> tuple[dict[tuple[int, ...], dict[int, float]], dict[int, float]]:
    """By bitmap and question the value of a metric, and by question its weight."""
    values: dict[tuple[int, ...], dict[int, float]] = {}
    weights: dict[int, float] = {}
    for one in evaluations:
        values.setdefault(tuple(one["bits"]), {}).update(zip(one["rows"], one["values"][name], strict=True))
        weights.update(zip(one["rows"], one["weights"], strict=True))
    return values, weights
