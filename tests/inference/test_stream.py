"""Streams print what they return, switch where the schedule says, and refuse what does not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.inference import Exported, SwitchableLM
from switchq.inference.stream import read_schedule, stream

NAMES = ("h.0.attn", "h.0.mlp")


@pytest.fixture(params=["gpt2", "opt"])
def lm(
    request: pytest.FixtureRequest,
    trained: Callable[..., PreTrainedModel],
    export: Callable[..., Exported],
    tmp_path: Path,
) -> SwitchableLM:
    """One that decodes in steps, and one that `generate` runs."""
    export(trained(request.param), tmp_path / "artifact")
    return SwitchableLM.from_pretrained(tmp_path / "artifact", packed=False)


def test_schedules() -> None:
    assert read_schedule("0:8,32:4", NAMES) == {0: Bitmap([8, 8]), 32: Bitmap([4, 4])}
    assert read_schedule(" 0:8/4 , 5:mlp=2", NAMES) == {0: Bitmap([8, 4]), 5: Bitmap([16, 2])}


@pytest.mark.parametrize("text", ["8", "5:8", "0:8,0:4", "x:8", "0:", "-1:8", "", "0:8;4:2", "0:9"])
def test_schedules_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        read_schedule(text, NAMES)


def by_hand(lm: SwitchableLM, prompt: str, widths: list[int]) -> list[int]:
    """Greedy tokens, each forward at its own width, with one cache."""
    ids_1T = lm.tokenizer(prompt, return_tensors="pt").input_ids
    cache, tokens = DynamicCache(), []
    for bits in widths:
        lm.set_bitmap(bits)
        with torch.no_grad():
            ids_1T = lm(ids_1T, past_key_values=cache).logits[:, -1:].argmax(-1)
        tokens.append(int(ids_1T))
    return tokens


@pytest.mark.parametrize("schedule", ["0:8", "0:8,3:2,7:4", "0:2,1:8"])
def test_switches_while_it_runs(lm: SwitchableLM, schedule: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_schedule(schedule, tuple(lm.artifact.manifest.layers))
    widths = [next(plan[start][0] for start in sorted(plan, reverse=True) if start <= at) for at in range(12)]
    expected = by_hand(lm, "Where is it?", widths)
    spoken = stream(lm, "Where is it?", plan, max_new_tokens=12)
    eos = lm.tokenizer.eos_token_id
    cut = expected[: expected.index(eos) + 1] if eos in expected else expected
    assert spoken.text == lm.tokenizer.decode(cut, skip_special_tokens=True)
    assert spoken.tokens == len(cut)
    assert capsys.readouterr().out.strip() == spoken.text.strip()
    assert 0 < spoken.first_seconds <= spoken.seconds


def test_samples_alike_with_a_seed(lm: SwitchableLM) -> None:
    plan = {0: lm.bitmap}
    texts = [
        stream(lm, "Who?", plan, max_new_tokens=12, temperature=1.5, seed=seed, show=False).text for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(("prompt", "tokens"), [("", 3), ("x" * 60, 10)], ids=["empty", "long"])
def test_prompts_that_do_not_fit(lm: SwitchableLM, prompt: str, tokens: int) -> None:
    with pytest.raises(UserError, match=r"empty|do not fit"):
        stream(lm, prompt, {0: lm.bitmap}, max_new_tokens=tokens)
