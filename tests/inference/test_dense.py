"""One bitmap as a plain model: what `transformers` and `peft` load, and what the artifact generates beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from switchq.errors import UserError
from switchq.inference import Exported, SwitchableLM, export_fixed
from switchq.inference.dense import plain_model
from switchq.models import make_switchable
from switchq.nn import at
from switchq.quant import Symmetric

Build = Callable[..., PreTrainedModel]


@torch.no_grad()
def logits(model: PreTrainedModel, tokens_BT: Tensor, bitmap: str, adapters: bool = True) -> Tensor:
    with at(model, bitmap, adapters):
        return model(tokens_BT).logits


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bitmap", ["8", "4", "8/2", "16"])
def test_loads_as_what_it_was(
    architecture: str,
    bitmap: str,
    trained: Build,
    character_tokenizer: PreTrainedTokenizerFast,
    tokens_BT: Tensor,
    tmp_path: Path,
) -> None:
    model = trained(architecture)
    export_fixed(model, character_tokenizer, tmp_path / "merged", bitmap)
    export_fixed(model, character_tokenizer, tmp_path / "bare", bitmap, adapters="off")
    with torch.no_grad():
        for name, adapters in (("merged", True), ("bare", False)):
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
            same(loaded(tokens_BT).logits, logits(model, tokens_BT, bitmap, adapters))


def test_head_and_embeddings_that_are_rounded(
    architecture: str, tiny: Build, character_tokenizer: PreTrainedTokenizerFast, tokens_BT: Tensor, tmp_path: Path
) -> None:
    """Tied, they are one entry of the bitmap and one tensor, of which a plain model knows the embeddings' name."""
    model = make_switchable(tiny(architecture), (8, 4, 2), Symmetric(), extra=("head", "embeddings"), adapters=False)
    export_fixed(model, character_tokenizer, tmp_path / "out", "2")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        same(loaded(tokens_BT).logits, logits(model, tokens_BT, "2"))
    with at(model, "2"):
        rounded = model.get_input_embeddings()(tokens_BT)
    torch.testing.assert_close(loaded.get_input_embeddings()(tokens_BT), rounded)
    assert not torch.allclose(rounded, model.get_input_embeddings()(tokens_BT), atol=1e-3)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_peft_lays_its_adapter_over_it(
    architecture: str, trained: Build, character_tokenizer: PreTrainedTokenizerFast, tokens_BT: Tensor, tmp_path: Path
) -> None:
    model = trained(architecture)
    export_fixed(model, character_tokenizer, tmp_path / "out", 4, adapters="peft")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    loaded = PeftModel.from_pretrained(loaded, str(tmp_path / "out" / "adapters" / "bits_4")).eval()
    with torch.no_grad():
        same(loaded(tokens_BT).logits, logits(model, tokens_BT, "4"))


def test_peft_takes_one_width(trained: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one width"):
        export_fixed(trained(), character_tokenizer, tmp_path / "out", "8/4", adapters="peft")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("bitmap", ["8", "4", "8/2"])
def test_generates_what_the_plain_model_does(
    architecture: str,
    bitmap: str,
    trained: Build,
    export: Callable[..., Exported],
    tokens_BT: Tensor,
    tmp_path: Path,
) -> None:
    """Greedy, in a batch with padding on the left."""
    model = trained(architecture)
    export(model, tmp_path / "artifact")
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", bitmap, packed=False)
    plain = plain_model(model, lm.bitmap)
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[0, :4] = mask_BT[2, :1] = 0
    options = {"attention_mask": mask_BT, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    expected = plain.generate(tokens_BT, **options)
    assert torch.equal(lm.generate(tokens_BT, **options), expected)
    alone = lm.generate(tokens_BT[:1, 4:], attention_mask=mask_BT[:1, 4:], max_new_tokens=12, do_sample=False)
    length = alone.shape[1] - 7
    assert torch.equal(alone[0, 7:], expected[0, tokens_BT.shape[1] :][:length])
