"""Which layers and components transfer best: their output errors against those with the target's own calibration."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from switchq.posttraining.ptq.leaderboard import Entry
from switchq.posttraining.transfer.matching import Match
from switchq.posttraining.transfer.strategies import Form


@dataclass(frozen=True)
class LayerError:
    """Relative output error E|(W - Q) x|^2 / E|W x|^2 of a layer of the target, mean over seeds.

    Attributes:
        own: with the target's own calibration, same form.
        rtn: with plain rounding.
    """

    name: str
    form: str
    bits: int
    layer: str
    block: int
    role: str
    error: float
    own: float
    rtn: float

    @property
    def against_own(self) -> float:
        """Error over own error: 1 is as good."""
        return self.error / self.own if self.own > 0 else 1.0


def layer_errors(
    name: str, form: Form, entry: Entry, own: Entry, rtn: Entry | None, matches: Sequence[Match]
) -> list[LayerError]:
    """The errors of a strategy's layers, those with own calibration and those with plain rounding beside them."""
    errors, of_own, plain = (_errors(one) for one in (entry, own, rtn))
    return [
        LayerError(name, form, entry.bits, layer, place.block, place.role, errors[layer], of_own[layer], plain[layer])
        for place in (one.target.place for one in matches)
        for layer in place.layers
        if layer in errors and layer in of_own and layer in plain
    ]


def _errors(entry: Entry | None) -> dict[str, float]:
    """Mean error of each layer over seeds."""
    runs: list[Mapping[str, Any]] = [] if entry is None else [run.details.get("layer_errors", {}) for run in entry.runs]
    names = dict.fromkeys(name for errors in runs for name, value in errors.items() if value is not None)
    return {name: statistics.fmean(errors[name] for errors in runs if errors.get(name) is not None) for name in names}


def components(layers: Sequence[LayerError]) -> dict[tuple[str, str, str], float]:
    """(form, strategy, role) -> error over own error, geometric mean over the component's layers and all widths."""
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for one in layers:
        if one.against_own > 0:
            ratios.setdefault((one.form, one.name, one.role), []).append(one.against_own)
    return {key: statistics.geometric_mean(found) for key, found in ratios.items()}
