"""Do two scores rank layers alike? Spearman's rank correlation between them, over all widths and within each."""

import math
from collections.abc import Mapping, Sequence

from scipy.stats import spearmanr

Scores = Mapping[str, Mapping[int, Sequence[float]]]


def correlations(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Rank correlations between all scores.

    Args:
        scores: name -> width -> one value per layer.

    Returns:
        Name -> name -> correlation over all layers and widths; `name@4` -> `name@4` -> that over the layers at 4 bits.
        None where a score is the same everywhere, or there are fewer than two values.
    """
    widths = sorted({bits for of in scores.values() for bits in of}, reverse=True)
    groups = {"": {name: [value for bits in widths for value in of[bits]] for name, of in scores.items()}}
    for bits in widths:
        groups[f"@{bits}"] = {name: list(of[bits]) for name, of in scores.items()}
    return {
        name + suffix: {other + suffix: rank_correlation(values, others) for other, others in group.items()}
        for suffix, group in groups.items()
        for name, values in group.items()
    }


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's correlation of two lists of equal length; None where it is not defined. Infinite values rank last."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    value = float(spearmanr(one, other).statistic)
    return value if math.isfinite(value) else None
