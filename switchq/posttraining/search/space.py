"""What a search chooses from: a width for every unit (a layer, or a block of layers), and what each choice costs.

Costs are additive over units. The bytes of a choice are differences of `weight_bytes` (codes, scales and the adapters
that a width switches on), taken once per layer and width, so that any bitmap's size is a sum over a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from switchq.bitmap import FULL, Bitmap
from switchq.errors import UserError
from switchq.evaluation.memory import MB, weight_bytes
from switchq.nn import switch_layers
from switchq.posttraining.search.metric import Array

Group = Literal["layer", "block"]

Cost = Literal["average_bits", "weight_mb"]

Genome = tuple[int, ...]
"""A width for each unit."""


@dataclass(frozen=True)
class Space:
    """The choices, and their costs.

    Attributes:
        names: the quantised layers, in model order.
        widths: the candidate widths, widest first, without 16; full precision is always a choice.
        units: the layers of each unit, as indices.
        bits_LW: average bits that layer L adds at choice W of `choices`; a bitmap's average bits are the sum.
        mb_LW: the same for weight MB, above `fixed_mb`.
        fixed_mb: MB of what no bitmap changes.
        outputs: output features of each layer.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    units: tuple[tuple[int, ...], ...]
    bits_LW: Array
    mb_LW: Array
    fixed_mb: float = 0.0
    outputs: tuple[int, ...] = ()

    @property
    def choices(self) -> tuple[int, ...]:
        """The widths with 16 in front."""
        return (FULL, *self.widths)

    @property
    def full(self) -> Genome:
        """All units at full precision."""
        return (FULL,) * len(self.units)

    def bitmap(self, genome: Sequence[int]) -> Bitmap:
        """The bitmap of a width for each unit."""
        widths = [FULL] * len(self.names)
        for unit, bits in zip(self.units, genome, strict=True):
            for layer in unit:
                widths[layer] = bits
        return Bitmap(widths)

    def genome(self, bitmap: Sequence[int]) -> Genome | None:
        """The inverse of `bitmap`; None for a bitmap that this space does not hold."""
        found = tuple(bitmap[unit[0]] for unit in self.units)
        return found if tuple(self.bitmap(found)) == tuple(bitmap) and set(found) <= set(self.choices) else None

    def average_bits(self, bitmap: Sequence[int]) -> float:
        """Mean bits per quantised weight."""
        return round(self._sum(self.bits_LW, bitmap), 12)  # or 2.125 may be 2.1250000000000004, and is 2.13

    def weight_mb(self, bitmap: Sequence[int]) -> float:
        """MB of a packed file of the model at this bitmap."""
        return self.fixed_mb + self._sum(self.mb_LW, bitmap)

    def cost(self, bitmap: Sequence[int], of: Cost) -> float:
        """What the front is drawn over."""
        return self.average_bits(bitmap) if of == "average_bits" else self.weight_mb(bitmap)

    def unit_costs(self, of: Cost) -> Array:
        """(units, choices): what each unit adds to the cost at each choice."""
        table = self.bits_LW if of == "average_bits" else self.mb_LW
        return np.stack([table[list(unit)].sum(0) for unit in self.units])

    def smallest(self, of: Cost) -> float:
        """The least cost that any bitmap of this space has."""
        return float(self.unit_costs(of).min(1).sum()) + (self.fixed_mb if of == "weight_mb" else 0.0)

    def _sum(self, table: Array, bitmap: Sequence[int]) -> float:
        return float(sum(table[layer, self.choices.index(bits)] for layer, bits in enumerate(bitmap)))


def search_space(model: nn.Module, widths: Sequence[int], group: Group = "layer") -> Space:
    """The space of a switchable model.

    Args:
        model: a switchable model.
        widths: the candidate widths.
        group: what gets a width of its own.

    Raises:
        UserError: no width below 16, or one twice.
    """
    layers = switch_layers(model)
    candidates = tuple(sorted(set(widths) - {FULL}, reverse=True))
    if not candidates or len(set(widths)) != len(list(widths)):
        raise UserError(f"--widths must name each width once, with one below 16 among them, not {list(widths)}")
    sizes = [layer.linear.weight.numel() for layer in layers]
    choices = (FULL, *candidates)
    full = Bitmap.stripe([FULL], len(layers))
    start = weight_bytes(model, full).total
    mb_LW = np.zeros((len(layers), len(choices)))
    for layer in range(len(layers)):
        for choice, bits in enumerate(choices[1:], 1):
            changed = Bitmap([bits if other == layer else FULL for other in range(len(layers))])
            mb_LW[layer, choice] = (weight_bytes(model, changed).total - start) / MB
    bits_LW = np.outer(np.array(sizes) / sum(sizes), np.array(choices, dtype=float))
    outputs = tuple(int(layer.linear.weight.shape[0]) for layer in layers)
    names = tuple(layer.name for layer in layers)
    return Space(names, candidates, _units(names, group), bits_LW, mb_LW, start / MB, outputs)


def _units(names: Sequence[str], group: Group) -> tuple[tuple[int, ...], ...]:
    """Each layer for itself, or all layers whose names agree up to the first number (`transformer.h.0`)."""
    if group == "layer":
        return tuple((layer,) for layer in range(len(names)))
    blocks: dict[str, list[int]] = {}
    for layer, name in enumerate(names):
        parts = name.split(".")
        number = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
        blocks.setdefault(".".join(parts[: number + 1]), []).append(layer)
    return tuple(map(tuple, blocks.values()))
