"""What a search optimises: F1, EM, perplexity, or the KL divergence from the full-precision model.

A metric is a function of sums over questions, so that one rule covers all four:

    figure = f(sum of values / sum of weights)

| metric     | value of a question              | weight        | figure     | relative drop            |
|------------|----------------------------------|---------------|------------|--------------------------|
| F1, EM     | its score, 0 to 1                | 1             | 100 x mean | 1 - figure / full figure |
| perplexity | NLL of the first gold answer     | answer tokens | exp(mean)  | figure / full figure - 1 |
| KL         | sum of KL(full precision, bitmap) | answer tokens | mean       | exp(figure) - 1          |

NLL and KL are in nats; the full figure is that of full precision.

The drop of a lower-is-better metric is its relative rise. KL is 0 at full precision and has no relative rise of its
own; exp(KL) is the factor by which the perplexity rises on text that the full-precision model itself predicts, so that
its drop reads like perplexity's.

A budget on the drop is linear in the values: each question has a margin, and a bitmap keeps the budget exactly if its
margins sum to no less than zero. Margins pair each question with itself at full precision, so that their spread is
small and a part of the questions often decides (`switchq.posttraining.search.race`).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from switchq.errors import UserError

MetricName = Literal["F1", "EM", "perplexity", "KL"]

Array = NDArray[np.float64]

WORST = 1e6
"""A margin is clipped to +-this: the NLL of a broken model may be infinite."""


@dataclass(frozen=True)
class Metric:
    """One of the four, by name."""

    name: MetricName

    def __post_init__(self) -> None:
        if self.name not in get_args(MetricName):
            raise UserError(f"no metric {self.name!r}: there are {', '.join(get_args(MetricName))}")

    @property
    def generates(self) -> bool:
        """Whether questions are answered by decoding; otherwise the gold answers are read."""
        return self.name in ("F1", "EM")

    def figure(self, values: Array, weights: Array) -> float:
        """The metric over questions: percent, perplexity, or nats per token."""
        return self.figure_of_mean(float(np.sum(values) / np.sum(weights)))

    def figure_of_mean(self, mean: float) -> float:
        """The metric, given the weighted mean of values."""
        if self.generates:
            return 100 * mean
        if self.name == "KL":
            return mean
        return float(np.exp(min(mean, 700.0))) if np.isfinite(mean) else float("inf")

    def loss(self, figure: float) -> float:
        """The figure turned so that lower is better."""
        if not np.isfinite(figure):
            return float("inf")
        return -figure if self.generates else figure

    def drop(self, figure: float, full: float) -> float:
        """The relative drop (0.3 is 30 %) of a figure against that of full precision; negative for a gain."""
        if self.generates:
            return 1 - figure / full
        if self.name == "KL":
            return float(np.expm1(min(figure, 700.0)))
        return figure / full - 1

    def margins(self, values: Array, full: Array, weights: Array, budget: float) -> Array:
        """One margin per question; `full` are the values of the full-precision model."""
        if self.generates:
            margins = values - (1 - budget) * full
        elif self.name == "KL":
            margins = weights * np.log1p(budget) - values
        else:
            margins = full + weights * np.log1p(budget) - values
        return np.clip(np.nan_to_num(margins, nan=-WORST), -WORST, WORST)

    def worst_margins(self, full: Array, budget: float) -> Array:
        """The least margin that each question may have."""
        return -(1 - budget) * full if self.generates else np.full_like(full, -WORST)

    def extremes(self, full: Array, weights: Array, budget: float) -> tuple[float, float]:
        """The lowest and highest margin to reckon with; for unbounded NLLs a few times that of an unchanged answer."""
        if self.generates:
            return -(1 - budget) * float(full.max()), 1.0
        allowance = float(np.mean(weights)) * float(np.log1p(budget))
        return -4 * allowance, 2 * allowance

    def check_budget(self, budget: float) -> None:
        """Make sure that a relative drop of `budget` can be asked for.

        Raises:
            UserError: it cannot.
        """
        if not budget >= 0 or not np.isfinite(budget) or (self.generates and budget >= 1):
            below = " and below 1" if self.generates else ""
            raise UserError(f"--budget is a relative drop of {self.name}: at least 0{below}, not {budget:g}")
