"""What all methods of a comparison share: one object, printed and stored with every result."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from switchq.bitmap import check_width, matches
from switchq.data.text import text_windows
from switchq.errors import UserError
from switchq.posttraining.calibration import Batch, text_batches
from switchq.quant import Asymmetric, Grid, Symmetric


@dataclass(frozen=True)
class Setting:
    """One comparison's common ground.

    Args:
        bits: the width of a code, 2 to 8.
        group_size: inputs that share one scale; None gives one scale per output row.
        symmetric: symmetric levels instead of a zero point per group.
        skip: globs over layer names, as in a bitmap; what they match stays in full precision.
        calibration: a text file, a `.jsonl` file with `text` fields, or a Hub name (`owner/name:config`, its train
            split).
        samples: windows of calibration text.
        length: tokens in a window.
        seed: draws the windows, and whatever a method draws.
        one_shot: take all statistics from the float model, instead of showing each block the outputs of the blocks that
            are quantised already.
        blocks_at_once: blocks on the device at a time. They are calibrated together: a block sees what quantised blocks
            give out only if they belong to an earlier bunch.
        documents: read only so many documents of the calibration text, from its start.

    Raises:
        UserError: a number out of range.
    """

    bits: int = 4
    group_size: int | None = 64
    symmetric: bool = False
    skip: tuple[str, ...] = ()
    calibration: str | None = None
    samples: int = 32
    length: int = 512
    seed: int = 0
    one_shot: bool = False
    blocks_at_once: int = 1
    documents: int | None = None

    def __post_init__(self) -> None:
        check_width(self.bits, full=False)
        for name, least in (("samples", 1), ("length", 2), ("blocks_at_once", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: use {least} or more")
        object.__setattr__(self, "skip", tuple(self.skip))  # a configuration file gives a list
        self.grid()

    def grid(self) -> Grid:
        """The grid that a method rounds to unless it brings its own."""
        return Symmetric(self.group_size) if self.symmetric else Asymmetric(self.group_size)

    def quantised(self, names: Sequence[str]) -> list[str]:
        """The layers that are not left out.

        Raises:
            UserError: a glob that matches none of `names`, globs that leave none.
        """
        for pattern in self.skip:
            if not any(matches(name, pattern) for name in names):
                raise UserError(f"skip: {pattern!r} matches no layer; their names look like {names[0]!r}")
        left = [name for name in names if not any(matches(name, pattern) for pattern in self.skip)]
        if not left:
            raise UserError("skip leaves no layer to quantise")
        return left


def calibration_batches(setting: Setting, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> list[Batch]:
    """Windows of the setting's calibration text, drawn without replacement from all whole ones it has.

    Raises:
        UserError: no calibration text is set, it cannot be read, or it is too short.
    """
    if setting.calibration is None:
        raise UserError("this method needs calibration text: name a file or a data set")
    windows = text_windows(setting.calibration, tokenizer, setting.length, split="train", documents=setting.documents)
    whole = [window for window in windows if len(window) == setting.length]
    if len(whole) < setting.samples:
        raise UserError(
            f"{setting.calibration} has {len(whole)} windows of {setting.length} tokens, {setting.samples} are wanted: "
            f"use fewer or shorter samples, or a longer text"
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(setting.seed)).tolist()
    return text_batches([whole[index] for index in sorted(order[: setting.samples])], tokenizer, batch_size)
