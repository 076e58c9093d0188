"""Sensitivities as the search uses them: one number for each unit and choice, 0 at full precision.

`kl` and `fisher` estimate what a layer alone does to the loss, and losses add up. `mse` and `mae` are means over a
layer's output elements: as an addend they are multiplied by the number of output features, which gives the error that a
layer sends on per token. As a ranking they are left as they are.
"""

from collections.abc import Sequence

import numpy as np

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.posttraining.search.metric import Array
from switchq.posttraining.search.space import Space
from switchq.posttraining.sensitivity import Sensitivity

PREFERENCE = ("kl", "fisher", "mse", "mae")
"""Best first: KL is measured, Fisher is its second-order estimate, the errors of outputs know nothing of the loss."""

PER_ELEMENT = ("mse", "mae")


def pick_score(sensitivity: Sensitivity, wanted: str | None) -> str:
    """The score to use: the one wanted, or the best there is.

    Raises:
        UserError: it is not there.
    """
    if wanted is None:
        return next((name for name in PREFERENCE if name in sensitivity.scores), next(iter(sensitivity.scores)))
    sensitivity.score(wanted, sensitivity.bits[0])
    return wanted


def unit_scores(space: Space, sensitivity: Sensitivity, score: str, additive: bool) -> Array:
    """(units, choices): the score of each unit, summed over its layers.

    A score that is not finite counts as ten times the sum of all finite ones.

    Args:
        space: the choices.
        sensitivity: of the same layers.
        score: its name.
        additive: per layer instead of per output element, where that differs.

    Raises:
        UserError: no such score, or no finite value.
    """
    rows: list[Sequence[float]] = [
        [0.0] * len(space.names) if bits == FULL else sensitivity.score(score, bits) for bits in space.choices
    ]
    table_LW = np.array(rows, dtype=np.float64).T
    if additive and score in PER_ELEMENT:
        table_LW = table_LW * np.array(space.outputs)[:, None]
    finite = np.isfinite(table_LW)
    if not finite[:, 1:].any():
        raise UserError(f"the sensitivities hold no finite {score}: run `switchq sensitivity` again")
    table_LW[~finite] = 10 * float(np.abs(table_LW[finite]).sum())
    return np.stack([table_LW[list(unit)].sum(0) for unit in space.units])
