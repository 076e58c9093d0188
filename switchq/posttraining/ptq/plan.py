"""The runs of a sweep: every method at every width on the same setting, the full model first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.posttraining.ptq.method import Method
from switchq.posttraining.ptq.results import FULL_PRECISION, SWITCHQ, Place
from switchq.posttraining.ptq.setting import Setting


@dataclass(frozen=True, eq=False)
class Run:
    """One run; two are the same only if they are one object.

    Attributes:
        name: what tables call it.
        bits: 2 to 8, or 16 for full precision.
        setting: the setting of a method at this width; None for full precision and a trained checkpoint.
        method: None for full precision and a trained checkpoint.
    """

    name: str
    bits: int
    setting: Setting | None = None
    method: Method | None = None

    @property
    def calibration(self) -> str | None:
        """What it is calibrated on; None for a method that looks at no data."""
        return None if self.setting is None else self.setting.calibration

    @property
    def seed(self) -> int:
        """Of the draw of the samples, and of the method."""
        return 0 if self.setting is None else self.setting.seed

    @property
    def place(self) -> Place:
        """In a table."""
        return self.name, self.bits, self.calibration, self.seed

    @property
    def title(self) -> str:
        """For a progress bar."""
        return self.name if self.bits == FULL else f"{self.name} at {self.bits} bits"

    def describe(self) -> dict[str, Any]:
        """What decides its figures, beside model and tasks, as plain values."""
        return {
            "name": self.name,
            "bits": self.bits,
            "setting": None if self.setting is None else asdict(self.setting),
            "method": None if self.method is None else self.method.to_dict(),
        }


def plan(
    methods: Sequence[Method],
    setting: Setting,
    bits: Sequence[int],
    calibrations: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    checkpoint: bool = False,
) -> list[Run]:
    """All runs, in the order in which they are made: everything with the first seed before anything with the second,
    so that a sweep which is stopped early leaves a whole table.

    Args:
        methods: each with a name of its own; one with a width of its own runs once, at that.
        setting: what they share, but for bits, calibration set and seed.
        bits: the widths.
        calibrations: calibration sets; a method that needs data runs once with each.
        seeds: a method that needs data, or draws, runs once with each.
        checkpoint: whether a trained switchable checkpoint is scored at the same widths.

    Raises:
        UserError: nothing to run, something named twice, or a method that needs data and has none.
    """
    for what, given in (("bits", bits), ("seeds", seeds), ("calibration", calibrations)):
        if len(set(given)) != len(given):
            raise UserError(f"--{what} names something twice: {', '.join(map(str, given))}")
    if not bits or not seeds or not (methods or checkpoint):
        raise UserError("there is nothing to run: name methods, bits and a seed")
    return list(_runs(methods, setting, bits, calibrations, seeds, checkpoint))


def _runs(
    methods: Sequence[Method],
    setting: Setting,
    bits: Sequence[int],
    calibrations: Sequence[str],
    seeds: Sequence[int],
    checkpoint: bool,
) -> Iterator[Run]:
    yield Run(FULL_PRECISION, FULL)
    for seed, width in product(seeds, bits):
        for method in methods:
            own_width = fixed_width(method)
            if own_width is not None and width != bits[0]:
                continue  # it ran already, at its own width
            reads, draws = bool(method.needs()), draws_lots(method)
            if reads and not calibrations:
                raise UserError(f"method {method.name} needs calibration text: give --calibration FILE or a Hub name")
            if seed != seeds[0] and not (reads or draws):
                continue  # it would give the same
            for calibration in calibrations if reads else (None,):
                own = replace(setting, bits=own_width or width, calibration=calibration, seed=seed)
                yield Run(method.name, own.bits, own, method)
        if checkpoint and seed == seeds[0]:
            yield Run(SWITCHQ, width)


def fixed_width(method: Method) -> int | None:
    """The width of a method that has one of its own (W8A8), whatever the sweep's are."""
    width: int | None = getattr(method.rounder, "bits", None)
    return width


def draws_lots(method: Method) -> bool:
    """Whether a method's parts draw at random themselves: they say so by a `random` of their class."""
    parts = (method.rounder, *method.transforms)
    return any(bool(getattr(part, "random", False)) for part in parts)


def pick_methods(names: Sequence[str], known: Mapping[str, Method]) -> list[Method]:
    """Methods by name, each once.

    Raises:
        UserError: an unknown name.
    """
    for name in names:
        if name not in known:
            raise UserError(f"there is no method {name!r}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]
