"""Steps over a static cache against the model's own forward and `generate`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.bitmap import Bitmap
from switchq.inference import Exported, SwitchableLM
from switchq.inference.steps.decoder import Decoder, sample
from switchq.inference.steps.gpt2 import is_plain_gpt2
from switchq.inference.steps.llama import is_plain_llama

Build = Callable[..., PreTrainedModel]
Load = Callable[..., SwitchableLM]

STEPPED = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


@pytest.fixture
def load(trained: Build, export: Callable[..., Exported], tmp_path: Path) -> Load:
    """`load("llama", "2")`: an artifact of that architecture, with the numbers of training."""

    def build(architecture: str, bitmap: str, packed: bool = False) -> SwitchableLM:
        export(trained(architecture), tmp_path / architecture)
        return SwitchableLM.from_pretrained(tmp_path / architecture, bitmap, packed=packed)

    return build


@pytest.fixture
def padded() -> tuple[Tensor, Tensor]:
    """Ids and mask of three prompts, the last two padded on the left."""
    ids_NT, mask_NT = torch.randint(2, 97, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask_NT[1, :4] = mask_NT[2, :1] = 0
    return ids_NT, mask_NT


def said(lm: SwitchableLM, ids_NT: Tensor, mask_NT: Tensor | None = None, **options: object) -> Tensor:
    """The next tokens (N, T) that the model's decoder gives."""
    assert lm.decoder is not None
    return torch.stack(list(lm.decoder.tokens(ids_NT, mask_NT, **options)), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", STEPPED)
def test_steps_give_the_tokens_of_generate(architecture: str, load: Load, padded: tuple[Tensor, Tensor]) -> None:
    lm = load(architecture, "8/2")
    ids_NT, mask_NT = padded
    lengths = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        whole_NT = lm.generate(ids_NT, attention_mask=mask_NT, eos_token_id=None, **lengths)
    assert torch.equal(said(lm, ids_NT, mask_NT, new_tokens=12), whole_NT[:, 9:])


@pytest.mark.parametrize("architecture", STEPPED)
def test_logits_of_a_step_after_a_switch(architecture: str, load: Load, padded: tuple[Tensor, Tensor]) -> None:
    """Prompt and first token at 8 bits, the third at 2/4: keys and values of before stay."""
    lm = load(architecture, "8")
    names = tuple(lm.artifact.manifest.layers)
    ids_NT, mask_NT = padded
    new_NT = said(lm, ids_NT, mask_NT, new_tokens=3, schedule={2: Bitmap.parse("2/4", names)})
    assert lm.decoder is not None
    assert lm.decoder.cache is not None
    seen_NT = torch.cat([mask_NT, torch.ones_like(new_NT[:, :2])], 1)
    whole_NT = torch.cat([ids_NT, new_NT[:, :2]], 1)
    places_NT = (seen_NT.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        lm.set_bitmap("8")
        known = lm(whole_NT[:, :10], attention_mask=seen_NT[:, :10], position_ids=places_NT[:, :10])
        lm.set_bitmap("2/4")
        last = lm(
            whole_NT[:, 10:], attention_mask=seen_NT, position_ids=places_NT[:, 10:],
            past_key_values=known.past_key_values,
        )  # fmt: skip
    torch.testing.assert_close(lm.decoder.cache.logits_NV, last.logits[:, -1], rtol=1e-4, atol=1e-4)


def test_two_generations_at_once(load: Load) -> None:
    """They would write over each other's keys and values."""
    lm = load("gpt2", "4")
    assert lm.decoder is not None
    first = lm.decoder.tokens(torch.randint(2, 97, (1, 5)), new_tokens=4)
    next(first)
    other_1T = torch.randint(2, 97, (1, 5))
    second = lm.decoder.tokens(other_1T, new_tokens=4)
    begun = next(second)
    with pytest.raises(RuntimeError, match="another generation began"):
        next(first)
    rest = [begun, *second]
    assert torch.equal(torch.stack(rest, 1), said(lm, other_1T, new_tokens=4))


def test_almost_no_temperature() -> None:
    """It takes the likeliest, where exponents of logits would be out of range."""
    logits_NV = torch.tensor([[300.0, 200.0, 299.0], [-300.0, -301.0, -299.0]])
    for temperature in (1e-40, 1e-46, 1e-300):
        assert sample(logits_NV, temperature, 3).tolist() == [0, 2]


def test_a_cache_is_used_again(load: Load) -> None:
    lm = load("gpt2", "4")
    assert lm.decoder is not None
    long_1T, short_1T = torch.randint(2, 97, (1, 20)), torch.randint(2, 97, (1, 3))
    said(lm, long_1T, new_tokens=4)
    held = lm.decoder.cache
    after = said(lm, short_1T, new_tokens=4)
    assert lm.decoder.cache is held
    lm.decoder.cache = None
    assert torch.equal(after, said(lm, short_1T, new_tokens=4))
    said(lm, short_1T.repeat(2, 1), new_tokens=4)
    assert lm.decoder.cache is not held


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_packed_steps_are_packed_forwards(architecture: str, load: Load) -> None:
    lm = load(architecture, "8/4", packed=True)
    ids_1T = torch.randint(2, 97, (1, 9))
    new_1T = said(lm, ids_1T, new_tokens=4)
    with torch.no_grad():
        logits_1TV = lm(torch.cat([ids_1T, new_1T[:, :-1]], 1)).logits
    assert lm.decoder is not None
    assert lm.decoder.cache is not None
    torch.testing.assert_close(lm.decoder.cache.logits_NV, logits_1TV[:, -1], rtol=1e-2, atol=1e-2)


def test_models_that_have_no_step(tiny: Build, load: Load) -> None:
    assert load("opt", "4").decoder is None
    assert isinstance(load("llama", "4").decoder, Decoder)
    assert is_plain_gpt2(tiny("gpt2"))
    assert not is_plain_gpt2(tiny("llama"))
    assert not is_plain_gpt2(tiny("gpt2", scale_attn_by_inverse_layer_idx=True))
    assert not is_plain_gpt2(tiny("gpt2", activation_function="relu"))
    assert not is_plain_llama(tiny("opt"))
    assert not is_plain_llama(tiny("mistral", sliding_window=16))
    assert not is_plain_llama(tiny("llama", hidden_act="gelu"))


def test_samples_come_from_the_likeliest() -> None:
    logits_NV = torch.tensor([[0.0, 5.0, 4.9, 4.8, -1.0]]).repeat(300, 1)
    drawn = sample(logits_NV, 1.0, 2)
    assert set(drawn.tolist()) == {1, 2}
    assert set(sample(logits_NV, 1e-3, 5).tolist()) == {1}
