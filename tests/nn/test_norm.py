"""Norms of which every width has its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.evaluation.memory import weight_bytes
from switchq.inference.export import export_artifact
from switchq.inference.formats.write import export_fixed
from switchq.models import make_switchable
from switchq.nn import at, set_bitmap
from switchq.nn.norm import is_own_norm

BuildModel = Callable[..., PreTrainedModel]


@torch.no_grad()
def logits(model: PreTrainedModel, tokens_BT: Tensor, bitmap: Any, adapters: bool = True) -> Tensor:
    with at(model, bitmap, adapters):
        return model(tokens_BT).logits


def own_norms(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if is_own_norm(name)}


def test_they_start_at_the_norms_of_the_base(tiny: BuildModel, architecture: str, tokens_BT: Tensor) -> None:
    plain, own = make_switchable(tiny(architecture)), make_switchable(tiny(architecture), own_norms=True)
    for bitmap in ("16", "8", "4/2"):
        assert torch.equal(logits(own, tokens_BT, bitmap), logits(plain, tokens_BT, bitmap))


def test_a_pass_trains_the_norms_of_its_width(tiny: BuildModel, architecture: str, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny(architecture), own_norms=True)
    for bits in (8, 4, 2):
        model.zero_grad()
        set_bitmap(model, bits)
        model(tokens_BT).logits.square().mean().backward()
        trained = {name for name, parameter in own_norms(model).items() if parameter.grad is not None}
        assert trained == {name for name in own_norms(model) if f".bits_{bits}." in name}
        assert trained


def test_a_norm_goes_with_the_first_linear_that_reads_it(tiny_llama: BuildModel, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_llama(), own_norms=True)
    set_bitmap(model, "8,4,4,4,2,8,8" + ",16" * 7)
    model(tokens_BT).logits.square().mean().backward()
    trained = [name for name, parameter in own_norms(model).items() if parameter.grad is not None]
    assert [name.split(".")[3] + name.split("bits_")[1][:1] for name in trained] == [
        "input_layernorm8", "post_attention_layernorm2", "input_layernorm8", "post_attention_layernorm8",
    ]  # fmt: skip


def test_one_width_has_other_norms_than_the_rest(tiny_gpt2: BuildModel, tokens_BT: Tensor) -> None:
    model, base = make_switchable(tiny_gpt2(), own_norms=True), tiny_gpt2()
    before = {bits: logits(model, tokens_BT, bits) for bits in (8, 2)}
    for name, parameter in own_norms(model).items():
        if ".bits_4." in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
            base.get_parameter(name.replace(".own_norm.bits_4", "")).data.copy_(parameter)
    assert torch.equal(logits(model, tokens_BT, 4), logits(make_switchable(base), tokens_BT, 4))
    assert not torch.equal(logits(model, tokens_BT, 4), logits(make_switchable(tiny_gpt2()), tokens_BT, 4))
    for bits, expected in before.items():
        assert torch.equal(logits(model, tokens_BT, bits), expected)
    assert torch.equal(logits(model, tokens_BT, 16, adapters=False), tiny_gpt2()(tokens_BT).logits)


def test_a_bitmap_weighs_one_set_of_norms(tiny_gpt2: BuildModel) -> None:
    own, plain = make_switchable(tiny_gpt2(), own_norms=True), make_switchable(tiny_gpt2())
    assert weight_bytes(own, Bitmap([4] * 8)) == weight_bytes(plain, Bitmap([4] * 8))


def test_a_model_without_such_norms_is_refused(tiny_opt: BuildModel) -> None:
    with pytest.raises(UserError, match="none to give each width its own of"):
        make_switchable(tiny_opt(do_layer_norm_before=False), own_norms=True)


@pytest.mark.parametrize("export", [export_artifact, export_fixed], ids=["artifact", "one bitmap"])
def test_exports_are_refused(
    tiny_gpt2: BuildModel, character_tokenizer: Any, tmp_path: Path, export: Callable[..., Any]
) -> None:
    model = make_switchable(tiny_gpt2(), own_norms=True)
    options = {"widths": (8, 4), "base": {}} if export is export_artifact else {"bitmap": "4", "format": "hf"}
    with pytest.raises(UserError, match="cannot be exported"):
        export(model, character_tokenizer, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
