"""A site: the linears of a block that read one input, that input's statistics, and who can absorb a scale of it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from switchq.bitmap import FULL
from switchq.models import as_held, weight_view
from switchq.models.architecture import Input
from switchq.posttraining.ptq.basis import Basis, Scale
from switchq.posttraining.ptq.statistics import Statistics


@dataclass(eq=False)
class Linear:
    """A linear on its way through a method.

    Attributes:
        name: the dotted name in the model.
        module: the module; its weight is float until `write`.
        quantised: whether it is to be rounded, or left out and only kept in step with what is rewritten around it.
        bases: explicit changes of its input coordinates, in the order they were made.
        kept_O: output channels (O,) that stay at 16 bits; None for none.
        notes: what transforms found, for the record.
    """

    name: str
    module: nn.Module
    quantised: bool = True
    bases: list[Basis] = field(default_factory=list)
    kept_O: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def weight_OI(self) -> Tensor:
        """The float32 weight as it will be rounded: in the coordinates that its bases give."""
        weight_OI = weight_view(self.module).float()
        for basis in self.bases:
            weight_OI = basis.into(weight_OI)
        return weight_OI

    @property
    def coded_OI(self) -> Tensor:
        """The rows of `weight_OI` that get codes: all but those of `kept_O`."""
        return self.weight_OI if self.kept_O is None else self.weight_OI[~self.kept_O]

    def whole(self, coded_OI: Tensor) -> Tensor:
        """The weight (O, I) with other values in the rows that get codes."""
        return coded_OI if self.kept_O is None else self.weight_OI.index_put((~self.kept_O,), coded_OI)

    def stored(self, coded_OI: Tensor) -> Tensor:
        """What the module holds, in its own layout and dtype, once the rows that get codes have these values;
        differentiable in them."""
        return as_held(self.module, self._back(self.whole(coded_OI)))

    @torch.no_grad()
    def write(self, weight_OI: Tensor) -> None:
        """Put a weight in those coordinates into the module, in the module's dtype."""
        weight_view(self.module).copy_(self._back(weight_OI))

    def _back(self, weight_OI: Tensor) -> Tensor:
        for basis in reversed(self.bases):
            weight_OI = basis.back(weight_OI)
        return weight_OI

    def kept_bits(self, bits: int) -> int:
        """What `kept_O` takes beyond `bits` a weight: the rest of 16, and a bit per channel that says which."""
        if self.kept_O is None:
            return 0
        outputs, inputs = weight_view(self.module).shape
        return int(self.kept_O.sum()) * inputs * (FULL - bits) + outputs

    def seen(self, statistics: Statistics) -> Statistics:
        """The statistics of what `weight_OI` is multiplied with, from those of the module's input."""
        for basis in self.bases:
            statistics = basis.statistics(statistics)
        return statistics


@dataclass(eq=False)
class Site:
    """The linears that read one input.

    Attributes:
        block: the block's module.
        input: its description.
        linears: all of them, in the order of the forward pass.
        statistics: of the input, as it is now.
    """

    block: nn.Module
    input: Input
    linears: tuple[Linear, ...]
    statistics: Statistics = field(default_factory=lambda: Statistics({}))

    @property
    def quantised(self) -> tuple[Linear, ...]:
        """Those of the linears that are to be rounded."""
        return tuple(linear for linear in self.linears if linear.quantised)

    @property
    def folds(self) -> bool:
        """Whether something before the site can absorb a scale."""
        if self.input.norm is not None:
            return getattr(self.block.get_submodule(self.input.norm), "weight", None) is not None
        return self.input.linear is not None

    def tied(self, scale_I: Tensor) -> Tensor:
        """The nearest scale that can be absorbed: the geometric mean over inputs that are made together."""
        size, repeats = self.input.head_size, self.input.repeats
        if repeats == 1 or not self.folds:
            return scale_I
        log = scale_I.log().reshape(-1, repeats, size)
        return log.mean(1, keepdim=True).expand_as(log).reshape(-1).exp()

    @torch.no_grad()
    def scale(self, scale_I: Tensor) -> None:
        """Divide the input by `scale_I` and multiply the weights' columns by it: folded into what makes the input.

        Args:
            scale_I: positive and `tied`; where nothing can absorb it, an explicit basis of all quantised linears.
        """
        if not self.folds:
            for linear in self.quantised:
                self.change_basis(linear, Scale(scale_I.half().float()))
            return
        for linear in self.linears:
            view_OI = weight_view(linear.module)
            view_OI.copy_(view_OI.float() * scale_I)
        if self.input.norm is not None:
            for parameter in self.block.get_submodule(self.input.norm).parameters():  # gain and bias
                _divide(parameter, scale_I)
        else:
            self._divide_rows(scale_I)
        self.statistics = self.statistics.scaled(scale_I)

    def change_basis(self, linear: Linear, basis: Basis) -> None:
        """Round one of the linears in other coordinates."""
        linear.bases.append(basis)

    def _divide_rows(self, scale_I: Tensor) -> None:
        assert self.input.linear is not None
        maker = self.block.get_submodule(self.input.linear)
        if self.input.repeats > 1:
            scale_I = scale_I.reshape(-1, self.input.repeats, self.input.head_size)[:, 0].reshape(-1)
        rows = slice(self.input.first_row, self.input.first_row + len(scale_I))
        _divide(weight_view(maker)[rows], scale_I[:, None])
        bias_O = getattr(maker, "bias", None)
        _divide(None if bias_O is None else bias_O[rows], scale_I)


def _divide(value: Tensor | None, scale: Tensor) -> None:
    if value is not None:
        value.detach().copy_(value.detach().float() / scale)
