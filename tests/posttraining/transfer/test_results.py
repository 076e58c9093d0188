"""Verdicts at their edges, and components."""

import pytest

from switchq.posttraining.transfer.layers import LayerError, components
from switchq.posttraining.transfer.results import verdict_of


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        (-0.3, "excellent"), (0.0, "excellent"), (0.0499, "excellent"), (0.05, "good"), (0.0999, "good"),
        (0.1, "moderate"), (0.2, "moderate"), (0.2001, "limited"), (float("inf"), "limited"), (float("nan"), "limited"),
    ],
)  # fmt: skip
def test_verdicts(gap: float, verdict: str) -> None:
    assert verdict_of(gap) == verdict


def test_components_are_geometric_means_over_layers_and_widths() -> None:
    layers = [
        LayerError("alpha", "scale", bits, f"h.{block}.a", block, "attention input", error, 1.0, 9.0)
        for bits, block, error in ((4, 0, 1.0), (4, 1, 4.0), (3, 0, 2.0), (3, 1, 2.0))
    ]
    layers.append(LayerError("alpha", "scale", 4, "h.0.b", 0, "MLP input", 3.0, 2.0, 9.0))
    assert components(layers) == {
        ("scale", "alpha", "attention input"): pytest.approx(2.0),
        ("scale", "alpha", "MLP input"): pytest.approx(1.5),
    }
