"""The options that all comparisons of quantised models share, and what can be told of them before any reading."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from switchq.bitmap import check_rounded
from switchq.errors import UserError
from switchq.evaluation.tasks import Task, task_from_dict
from switchq.posttraining.ptq.setting import Setting
from switchq.words import count_of

WIDTHS = (8, 4, 3, 2)

LENGTH = 512
"""Tokens of a calibration window, where the model reads that many."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """Arguments of `switchq.verbs_ptq`, which explains them."""

    bits: list[int] | None
    group_size: int | None
    symmetric: bool
    skip: list[str] | None
    calibration: list[str] | None
    samples: int
    length: int | None
    documents: int | None
    one_shot: bool
    blocks_at_once: int
    seeds: list[int] | None
    tasks: list[Any] | None
    limit: int | None
    dtype: Any
    batch_size: int
    device: str
    output: str
    overwrite: bool

    @property
    def widths(self) -> Sequence[int]:
        """The widths, each once, in the order given."""
        return list(dict.fromkeys(self.bits or WIDTHS))

    @property
    def calibrations(self) -> Sequence[str]:
        """The calibration sets."""
        return self.calibration or ()

    @property
    def seed_list(self) -> Sequence[int]:
        """The seeds."""
        return self.seeds if self.seeds else (0,)

    def check(self) -> None:
        """What can be told before anything is read.

        Raises:
            UserError: a number out of range, nothing to quantise or to score.
        """
        if not self.tasks:
            raise UserError("there is nothing to score: give tasks in a --config file (configs/ptq/leaderboard.yaml)")
        for name in ("limit", "batch_size", "samples", "documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, not {value}")
        if any(seed < 0 for seed in self.seed_list):
            raise UserError(f"--seeds must not be negative, not {min(self.seed_list)}")
        check_rounded(self.widths, "full precision, which is scored in any case")

    def setting(self, window: int) -> Setting:
        """What all methods share; bits, calibration set and seed are filled in run by run.

        Raises:
            UserError: a number out of range.
        """
        length = min(LENGTH, window) if self.length is None else self.length
        if not 2 <= length <= window:
            raise UserError(f"--length must be 2 to {window}, not {length}")
        return Setting(
            group_size=self.group_size,
            symmetric=self.symmetric,
            skip=tuple(self.skip or ()),
            samples=self.samples,
            length=length,
            one_shot=self.one_shot,
            blocks_at_once=self.blocks_at_once,
            documents=self.documents,
        )

    def shared_setting(self, setting: Setting) -> dict[str, Any]:
        """The setting as plain values, with all widths, calibration sets and seeds."""
        shared = {name: value for name, value in asdict(setting).items() if name not in ("bits", "calibration", "seed")}
        return {
            **shared,
            "bits": list(self.widths),
            "calibration": list(self.calibrations),
            "seeds": list(self.seed_list),
            "dtype": self.dtype,
        }

    def read_tasks(self) -> list[Task]:
        """The tasks.

        Raises:
            UserError: an unknown task or option.
        """
        return [task_from_dict(content) for content in self.tasks or ()]

    def describe(self) -> str:
        """The setting in a line, for the head of a table."""
        grid = "symmetric" if self.symmetric else "with zero points"
        groups = "one scale a row" if self.group_size is None else f"groups of {self.group_size}"
        parts = [f"{groups}, {grid}"]
        if self.skip:
            parts.append(f"without {', '.join(self.skip)}")
        if self.calibrations:
            parts.append(f"{count_of(self.samples, 'window')} of {' or '.join(self.calibrations)}")
        seeds = ", ".join(map(str, self.seed_list))
        return ", ".join([*parts, f"seed{'s' if len(self.seed_list) > 1 else ''} {seeds}", str(self.dtype)])
