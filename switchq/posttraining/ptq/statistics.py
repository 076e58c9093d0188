"""What rounders and transforms know of a linear's input x (N tokens, I features), gathered in one pass.

| name          | shape  | what it is                                        |
|---------------|--------|---------------------------------------------------|
| `mean`        | (I,)   | E[x]                                              |
| `mean_abs`    | (I,)   | E|x|                                              |
| `mean_square` | (I,)   | E[x^2]                                            |
| `max_abs`     | (I,)   | max |x|                                           |
| `gram`        | (I, I) | E[x x^T]: E|D x|^2 = tr(D gram D^T) for any D     |
| `samples`     | (N, I) | the inputs of some tokens, evenly likely          |

Only what is declared is gathered, so the inputs themselves are kept for the sampled tokens alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Name = Literal["mean", "mean_abs", "mean_square", "max_abs", "gram"]

STRIPES = 4
"""Stripes of columns that a Gram matrix is made in, each from its diagonal on: 5/8 of the products of the whole."""


def _upper_gram(x_NI: Tensor) -> Tensor:
    """x^T x on and above the diagonal; below it, something or nothing."""
    upper_II = x_NI.new_zeros(x_NI.shape[1], x_NI.shape[1])
    first = 0
    for stripe_NS in x_NI.tensor_split(STRIPES, 1):
        last = first + stripe_NS.shape[1]
        torch.mm(stripe_NS.T, x_NI[:, first:], out=upper_II[first:last, first:])
        first = last
    return upper_II


_TERMS: dict[Name, Callable[[Tensor], Tensor]] = {
    "mean": lambda x_NI: x_NI.sum(0),
    "mean_abs": lambda x_NI: x_NI.abs().sum(0),
    "mean_square": lambda x_NI: x_NI.square().sum(0),
    "gram": _upper_gram,
}


@dataclass(frozen=True)
class Needs:
    """Statistics that somebody declares.

    Attributes:
        names: any of `mean`, `mean_abs`, `mean_square`, `max_abs`, `gram`.
        samples: tokens whose inputs are wanted.
    """

    names: frozenset[Name] = frozenset()
    samples: int = 0

    @classmethod
    def of(cls, *names: Name, samples: int = 0) -> "Needs":
        """`Needs.of("gram", samples=2048)`."""
        unknown = set(names) - set(get_args(Name))
        if unknown:
            raise ValueError(f"no statistic {min(unknown)!r}: there are {', '.join(get_args(Name))}")
        return cls(frozenset(names), samples)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(self.names | other.names, max(self.samples, other.samples))

    def __bool__(self) -> bool:
        return bool(self.names or self.samples)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one input, float32.

    Attributes:
        values: tensors by name; `samples` among them if any were wanted.
        tokens: tokens that they are over.
    """

    values: dict[str, Tensor]
    tokens: int = 0

    def __getitem__(self, name: str) -> Tensor:
        """A statistic.

        Raises:
            KeyError: if it was not declared.
        """
        if name not in self.values:
            raise KeyError(f"{name} was not gathered: declare it in needs()")
        return self.values[name]

    def scaled(self, scale_I: Tensor) -> "Statistics":
        """The statistics of x / scale, exactly."""
        power = {"mean_square": scale_I.square(), "gram": scale_I[:, None] * scale_I}
        return Statistics({name: value / power.get(name, scale_I) for name, value in self.values.items()}, self.tokens)

    def sampled(self, most: int) -> Tensor:
        """At most `most` of the sampled inputs (N, I), spread evenly over them."""
        samples_NI = self["samples"]
        if len(samples_NI) <= most:
            return samples_NI
        return samples_NI[torch.linspace(0, len(samples_NI) - 1, most, device=samples_NI.device).round().long()]


class Accumulator:
    """Gathers statistics, some tokens at a time.

    Args:
        needs: what is wanted.
        tokens: tokens that will come in all.
        seed: draws the sampled tokens.
    """

    def __init__(self, needs: Needs, tokens: int, seed: int = 0) -> None:
        self.needs = needs
        self._sums: dict[str, Tensor] = {}
        self._samples: list[Tensor] = []
        self._seen = 0
        order = torch.randperm(tokens if needs.samples else 0, generator=torch.Generator().manual_seed(seed))
        self._drawn = order[: needs.samples].sort().values

    def add(self, x_NI: Tensor) -> None:
        """Count N more tokens."""
        x_NI = x_NI.detach().float()
        for name in self.needs.names:
            if name == "max_abs":
                most_I = x_NI.abs().amax(0)
                self._sums[name] = torch.maximum(self._sums[name], most_I) if name in self._sums else most_I
            else:
                term = _TERMS[name](x_NI)
                self._sums[name] = self._sums[name].add_(term) if name in self._sums else term
        here = self._drawn[(self._drawn >= self._seen) & (self._drawn < self._seen + len(x_NI))] - self._seen
        if len(here):
            self._samples.append(x_NI[here.to(x_NI.device)])
        self._seen += len(x_NI)

    def result(self) -> Statistics:
        """The statistics of all that was counted."""
        values = {name: total if name == "max_abs" else total / self._seen for name, total in self._sums.items()}
        if "gram" in values:
            values["gram"] = values["gram"].triu() + values["gram"].triu(1).T
        if self.needs.samples:
            values["samples"] = torch.cat(self._samples)
        return Statistics(values, self._seen)
