"""The benchmark measures what it names; its figures are not judged here."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from switchq.inference import Exported, SwitchableLM
from switchq.inference.bench import FLOAT, measure


@pytest.mark.parametrize("bitmap", ["4", "8/2", FLOAT[0]])
def test_measures(
    bitmap: str, trained: Callable[..., PreTrainedModel], export: Callable[..., Exported], tmp_path: Path
) -> None:
    export(trained(), tmp_path / "artifact")
    speed = measure(tmp_path / "artifact", bitmap, prompt_tokens=5, new_tokens=16, repeats=3)
    assert speed.bitmap == bitmap
    assert speed.tokens_per_s is not None
    assert speed.tokens_per_s > 0
    assert speed.first_token_ms > 0
    expected = SwitchableLM.from_pretrained(tmp_path / "artifact", bitmap).bytes_read if bitmap != FLOAT[0] else 0
    assert speed.read_mb == expected / 1e6
