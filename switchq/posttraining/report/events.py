"""Curves of a run, from its TensorBoard event files."""

import math
from collections.abc import Mapping
from pathlib import Path

Curves = Mapping[str, tuple[tuple[int, float], ...]]
"""Tag of a scalar -> (optimiser step, value) in order, finite values only."""


def has_events(folder: Path) -> bool:
    """Whether a folder holds TensorBoard event files."""
    return any(folder.glob("events.out.tfevents.*"))


def read_curves(folder: Path) -> Curves:
    """All scalars of a run; none where it has no event files. A file that was cut off is read as far as it goes."""
    if not has_events(folder):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 1, "images": 1, "histograms": 1})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
        if points:
            curves[tag] = tuple(sorted(points.items()))
    return curves


def by_label(curves: Curves, part: str) -> dict[str, tuple[tuple[int, float], ...]]:
    """The curves of one quantity, by bitmap: `ce/8/4` of `ce` is `8/4`."""
    return {tag.removeprefix(f"{part}/"): curve for tag, curve in curves.items() if tag.startswith(f"{part}/")}
