"""Calibration batches with padding, statistics of given inputs, and all rounders and transforms there are."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.data.batches import TrainingCollator
from switchq.data.text import window_example
from switchq.models.load import architecture_of
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Method, Setting, rounders, transforms
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded, Rounder
from switchq.posttraining.ptq.statistics import Accumulator, Needs, Statistics
from switchq.posttraining.ptq.transform import Transform
from switchq.quant import Grid

ALL = Needs.of("mean", "mean_abs", "mean_square", "max_abs", "gram", samples=4096)

SMALL = Setting(bits=3, group_size=16)

MakeModel = Callable[..., PreTrainedModel]


def kinds(package: ModuleType, base: type[Any]) -> list[type[Any]]:
    """The concrete subclasses of `base` in a package, one a file, without anybody having to list them."""
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
    ]
    found = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    return sorted({kind for kind in found if issubclass(kind, base) and not inspect.isabstract(kind)}, key=str)


ROUNDERS: list[type[LinearRounder]] = kinds(rounders, LinearRounder)

TRANSFORMS: list[type[Transform]] = kinds(transforms, Transform)


def statistics_of(x_NI: Tensor, needs: Needs = ALL) -> Statistics:
    """All statistics of some inputs."""
    gatherer = Accumulator(needs, len(x_NI))
    gatherer.add(x_NI)
    return gatherer.result()


def inputs_of(features: int, tokens: int = 400, seed: int = 0) -> Tensor:
    """Correlated inputs (N, I) with a mean and a few large channels."""
    generator = torch.Generator().manual_seed(seed)
    mix_II = torch.randn(features, features, generator=generator) / features**0.5
    size_I = torch.rand(features, generator=generator) ** 4 * 5 + 0.1
    return (torch.randn(tokens, features, generator=generator) @ mix_II + 0.5) * size_I


def weight_of(outputs: int, features: int, seed: int = 1) -> Tensor:
    """A weight (O, I) with an outlier in each row."""
    weight_OI = torch.randn(outputs, features, generator=torch.Generator().manual_seed(seed))
    weight_OI[:, seed % features] *= 4
    return weight_OI


def output_error(weight_OI: Tensor, rounded_OI: Tensor, x_NI: Tensor) -> float:
    """Mean over tokens of the squared error of the output."""
    return float((x_NI.double() @ (weight_OI - rounded_OI).double().T).square().sum(1).mean())


class FloatRounded(Rounded):
    """Stands for the weight that it was made from."""

    def weight(self) -> Tensor:
        weight_OI: Tensor = self.params["weight"]
        return weight_OI


@dataclass(frozen=True)
class Float(LinearRounder):
    """Rounds nothing: what is left of a method are its transforms."""

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        codes_OI = torch.zeros(weight_OI.shape, dtype=torch.int16)
        return FloatRounded(codes_OI, {"weight": weight_OI.clone()}, grid, bits)


@dataclass(frozen=True)
class Spy(LinearRounder):
    """Nearest rounding that keeps the statistics it was given."""

    seen: ClassVar[list[Statistics]] = []

    def needs(self) -> Needs:
        return Needs.of("mean")

    def round(self, weight_OI: Tensor, grid: Grid, bits: int, statistics: Statistics, seed: int = 0) -> Rounded:
        self.seen.append(statistics)
        params = grid.fit(weight_OI, bits)
        return Rounded(grid.encode(weight_OI, params, bits), params, grid, bits)


@dataclass(frozen=True)
class SequentialSpy(Spy):
    """The same, site after site."""

    sequential: ClassVar[bool] = True


@dataclass(frozen=True)
class RowSpy(Spy):
    """The same, rows standing alone."""

    row_by_row: ClassVar[bool] = True


@pytest.fixture
def spied() -> list[Statistics]:
    """What spies have seen in this test."""
    Spy.seen.clear()
    return Spy.seen


@pytest.fixture(scope="session")
def batches() -> list[Batch]:
    """Five windows of different lengths in batches of three and two: 108 real tokens."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(2, 97, (length,), generator=generator).tolist() for length in (24, 24, 21, 20, 19)]
    collate = TrainingCollator(pad_id=5)
    return [Batch.of(collate([window_example(one) for one in part])) for part in (ids[:3], ids[3:])]


def linears_of(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The block linears by name."""
    return {name: model.get_submodule(name) for name in architecture_of(model.config).linear_names(model)}


def method(rounder: Rounder, *steps: Transform, **options: Any) -> Method:
    """A method without a name of its own."""
    return Method("test", rounder, tuple(steps), **options)


def logits(model: PreTrainedModel, batches: Sequence[Batch]) -> Tensor:
    """Logits at the real tokens of all batches."""
    with torch.no_grad():
        return torch.cat([model(**batch.inputs).logits.flatten(0, 1)[batch.real_N] for batch in batches])
