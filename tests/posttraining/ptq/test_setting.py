"""The setting: what it leaves out, how it draws calibration text, and numbers out of range."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from switchq.errors import UserError
from switchq.posttraining.ptq import Setting, calibration_batches
from switchq.quant import Asymmetric, Symmetric

NAMES = [f"h.{block}.{linear}" for block in range(2) for linear in ("attn.c_attn", "mlp.c_fc")]


def test_grids() -> None:
    assert Setting(group_size=32).grid() == Asymmetric(32)
    assert Setting(group_size=None, symmetric=True).grid() == Symmetric()


@pytest.mark.parametrize(
    ("skip", "left"), [((), [0, 1, 2, 3]), (("h.0",), [2, 3]), (("c_fc",), [0, 2]), (("h.*.attn", "h.1"), [1])]
)
def test_globs(skip: tuple[str, ...], left: list[int]) -> None:
    assert Setting(skip=skip).quantised(NAMES) == [NAMES[index] for index in left]


def test_globs_that_match_nothing_or_everything() -> None:
    with pytest.raises(UserError, match="'lm_head' matches no layer"):
        Setting(skip=("lm_head",)).quantised(NAMES)
    with pytest.raises(UserError, match="leaves no layer"):
        Setting(skip=("h",)).quantised(NAMES)


@pytest.mark.parametrize(
    "arguments",
    [{"bits": 16}, {"bits": 9}, {"bits": 1}, {"samples": 0}, {"length": 1}, {"blocks_at_once": 0}, {"group_size": 0}],
    ids=str,
)
def test_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Setting(**arguments)


@pytest.fixture
def tokenizer(character_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """One that can pad."""
    own = copy.deepcopy(character_tokenizer)
    own.pad_token = own.eos_token
    return own


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A thousand different characters or so, as documents."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number:04d} is a number."}) + "\n" for number in range(60)))
    return path


def test_draws_whole_windows(text: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    setting = Setting(calibration=str(text), samples=9, length=32, seed=1)
    batches = calibration_batches(setting, tokenizer, batch_size=4)
    assert [tuple(batch.inputs["input_ids"].shape) for batch in batches] == [(4, 32), (4, 32), (1, 32)]
    again = calibration_batches(setting, tokenizer, batch_size=4)
    other = calibration_batches(Setting(calibration=str(text), samples=9, length=32), tokenizer, 4)
    drawn, repeated, different = (
        [tuple(row) for batch in one for row in batch.inputs["input_ids"].tolist()] for one in (batches, again, other)
    )
    assert drawn == repeated
    assert set(drawn) != set(different)
    assert len(set(drawn)) == 9


def test_too_little_text(text: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="35 windows of 30 tokens, 50 are wanted"):
        calibration_batches(Setting(calibration=str(text), samples=50, length=30), tokenizer)
    with pytest.raises(UserError, match="name a file or a data set"):
        calibration_batches(Setting(), tokenizer)
