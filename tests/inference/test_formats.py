"""Formats of other programs, read back by what their descriptions say; nothing here is shared with the writers."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.evaluation.sealed import check_files
from switchq.inference import export_fixed
from switchq.inference.dense import plain_model
from switchq.inference.formats import KIND, NONE, PACKERS, read_fixed, read_folder
from switchq.models import make_switchable, weight_view
from switchq.nn import at, get_switch, switch_layers
from switchq.quant import Apot, Asymmetric, Grid, Nested, Pot, Symmetric

Build = Callable[..., PreTrainedModel]

WIDTHS = (8, 4, 3, 2)


def code_at(words: list[int], number: int, bits: int) -> int:
    """Code `number` of a row of 32-bit words, as one long integer with the lowest bit first."""
    whole = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words))
    return whole >> (number * bits) & (2**bits - 1)


def unpack(words_NW: Tensor, length: int, bits: int) -> Tensor:
    return torch.tensor([[code_at(row, i, bits) for i in range(length)] for row in words_NW.tolist()])


def scheme_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The scheme that a layer has in compressed-tensors' configuration."""
    groups = list(config["config_groups"].values())
    if name in config["ignore"]:
        raise AssertionError(f"{name} is packed and ignored")
    (found,) = [one for one in groups if one["targets"] == ["Linear"] or name in one["targets"]]
    scheme: dict[str, Any] = found["weights"]
    return scheme


def read_compressed(folder: Path, name: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> Tensor:
    """(O, I) = (code - 2^(b-1)) x scale."""
    scheme = scheme_of(config, name)
    outputs, inputs = tensors[f"{name}.weight_shape"].tolist()
    codes_OI = unpack(tensors[f"{name}.weight_packed"], inputs, scheme["num_bits"])
    scale_OG = tensors[f"{name}.weight_scale"].float()
    size = scheme["group_size"] or inputs
    assert scale_OG.shape == (outputs, inputs // size)
    assert (scheme["strategy"], scheme["symmetric"]) == ("group" if scheme["group_size"] else "channel", True)
    return (codes_OI - 2 ** (scheme["num_bits"] - 1)).float() * scale_OG.repeat_interleave(size, 1)


def read_gptq(folder: Path, name: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> Tensor:
    """(O, I) = (code - zero) x scale, the zero point of format 1 stored less 1."""

    bits = config["bits"]
    for pattern, change in (config["dynamic"] or {}).items():
        if re.match(pattern[2:], name):
            assert pattern.startswith("+:"), f"{name} is packed and left out"
            bits = change["bits"]
    scale_GO = tensors[f"{name}.scales"].float()
    group_I = tensors[f"{name}.g_idx"].long()
    zero_GO = unpack(tensors[f"{name}.qzeros"], scale_GO.shape[1], bits)
    zero_GO += config["checkpoint_format"] == "gptq"
    codes_OI = unpack(tensors[f"{name}.qweight"].T, len(group_I), bits)
    size = len(group_I) if config["group_size"] == -1 else config["group_size"]
    assert torch.equal(group_I, torch.arange(len(group_I)) // size)
    return (codes_OI - zero_GO.T[:, group_I]).float() * scale_GO.T[:, group_I]


READERS = {"compressed-tensors": read_compressed, "gptq": read_gptq}


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Every weight (O, I) that a folder holds packed."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    ends = (".weight_packed", ".qweight")
    names = [key.removesuffix(end) for key in tensors for end in ends if key.endswith(end)]
    return {name: READERS[config["quant_method"]](folder, name, tensors, config) for name in names}


@pytest.fixture
def bare(tiny: Build) -> Build:
    """A switchable model without adapters."""
    sizes = {"llama": {"num_key_value_heads": 4}}  # a multiple of 32, as gptq wants

    def build(architecture: str, grid: Grid) -> PreTrainedModel:
        return make_switchable(tiny(architecture, **sizes.get(architecture, {})), WIDTHS, grid, adapters=False)

    return build


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("grid", [Symmetric(16), Asymmetric(16), Symmetric()], ids=str)
@pytest.mark.parametrize("format", ["compressed-tensors", "gptq"])
def test_a_folder_is_read_back_as_the_model_that_was_written(
    format: str,
    grid: Grid,
    bits: int,
    bare: Build,
    character_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    symmetric = isinstance(grid, Symmetric)
    if format == "compressed-tensors" and (not symmetric or bits == 3):
        pytest.skip("refused, see below")
    model = bare("llama", grid)
    export_fixed(model, character_tokenizer, tmp_path / "out", bits, format)
    found = dict(read_folder(tmp_path / "out", PACKERS[format], bits, symmetric).named_parameters())
    expected = dict(plain_model(model, Bitmap.parse(bits, get_switch(model).names), True).named_parameters())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("bitmap", ["8", "4", "3", "2", "*attn*=8,*mlp*=4", "*attn*=4,*mlp*=16"])
@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(16), Asymmetric(), Asymmetric(16)], ids=str)
@pytest.mark.parametrize(("format", "architecture"), [("compressed-tensors", "llama"), ("gptq", "gpt2")])
def test_integer_levels_are_kept_bit_for_bit(
    format: str,
    architecture: str,
    grid: Grid,
    bitmap: str,
    bare: Build,
    character_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    if format == "compressed-tensors" and (isinstance(grid, Asymmetric) or bitmap == "3"):
        pytest.skip("refused, see below")
    model = bare(architecture, grid)
    done = export_fixed(model, character_tokenizer, tmp_path / "out", bitmap, format)
    assert done.loss is None
    found = weights_of(tmp_path / "out")
    with at(model, bitmap):
        expected = {one.name: one.linear.effective_weight() for one in switch_layers(model) if one.bits != 16}
        floats = [one.name for one in switch_layers(model) if one.bits == 16]
    assert found.keys() == expected.keys()
    for name, weight_OI in found.items():
        assert torch.equal(weight_OI, expected[name]), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for name in floats:
        assert f"{name}.weight" in tensors
        left = config.get("ignore") or [pattern.replace("\\", "") for pattern in config["dynamic"]]
        assert any(name in one for one in left)


def test_learned_scales_are_kept(tiny: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = make_switchable(tiny("gpt2"), WIDTHS, Asymmetric(16), adapters=False, learn_scales=True)
    for name, parameter in model.named_parameters():
        if "log_scale" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert export_fixed(model, character_tokenizer, tmp_path / "out", "4", "gptq").loss is None
    with at(model, "4"):
        expected = {one.name: one.linear.effective_weight() for one in switch_layers(model)}
    for name, weight_OI in weights_of(tmp_path / "out").items():
        torch.testing.assert_close(weight_OI, expected[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("format", "architecture"), [("compressed-tensors", "llama"), ("gptq", "gpt2")])
@pytest.mark.parametrize("grid", [Symmetric(16), Nested(16)], ids=str)
def test_merged_adapters_and_nested_levels_are_rounded_again_and_the_loss_told(
    format: str,
    architecture: str,
    grid: Grid,
    trained: Build,
    character_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    model = trained(architecture, grid)
    windows = [list(range(1, 20)), list(range(20, 40))]
    done = export_fixed(model, character_tokenizer, tmp_path / "out", "4", format, windows=windows)
    assert done.loss is not None
    found = weights_of(tmp_path / "out")
    wanted = plain_model(model, Bitmap.parse("4", get_switch(model).names))
    for name, weight_OI in found.items():
        target_OI = weight_view(wanted.get_submodule(name))
        error = float((weight_OI - target_OI).square().sum() / target_OI.square().sum())
        assert done.loss.layers[name] == pytest.approx(error, rel=1e-4)
        assert 0 < error < 0.05
    assert done.loss.perplexity is not None
    before, after = done.loss.perplexity
    assert before != after
    assert done.loss.logits is not None
    assert done.loss.logits > 0
    kept, files = read_fixed(tmp_path / "out")
    assert kept.loss == done.loss
    check_files(tmp_path / "out", files)


def test_peft_beside_packed_weights_loses_nothing(
    trained: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = trained("llama", Symmetric(16))
    done = export_fixed(model, character_tokenizer, tmp_path / "out", "4", "compressed-tensors", adapters="peft")
    assert done.loss is None
    assert [place.name for place in (tmp_path / "out/adapters").iterdir()] == ["bits_4"]  # the others' are of no use
    assert (tmp_path / "out" / "adapters" / "bits_4" / "adapter_model.safetensors").is_file()
    content = json.loads((tmp_path / "out" / "switchq.json").read_text())
    assert content["kind"] == KIND
    assert "adapters/bits_4/adapter_model.safetensors" in content["files"]


def test_a_width_with_the_shared_adapter_alone_has_that_beside_it(
    trained: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = trained("llama", Symmetric(16), shared_rank=2, rank={8: 3, 4: 0, 2: 3})
    export_fixed(model, character_tokenizer, tmp_path / "out", "4", "compressed-tensors", adapters="peft")
    assert [place.name for place in (tmp_path / "out/adapters").iterdir()] == ["shared"]


@pytest.mark.parametrize("adapters", ["merged", "peft", "off"])
def test_a_model_without_adapters_has_none_to_tell_of(
    bare: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, adapters: Any
) -> None:
    done = export_fixed(bare("llama", Symmetric(16)), character_tokenizer, tmp_path / "out", "4", adapters=adapters)
    assert done.adapters == NONE
    assert read_fixed(tmp_path / "out")[0].adapters == NONE
    assert not (tmp_path / "out/adapters").exists()


def test_half_floats(bare: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    export_fixed(bare("llama", Symmetric()), character_tokenizer, tmp_path / "out", "4", "gptq", float_bits=16)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.int32, torch.float16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize(
    ("architecture", "grid", "bitmap", "format", "says"),
    [
        ("gpt2", Symmetric(), "4", "compressed-tensors", "built of Conv1D: choose --format gptq or hf"),
        ("llama", Asymmetric(), "4", "compressed-tensors", "without zero points only: choose --format gptq"),
        ("llama", Symmetric(), "3", "compressed-tensors", "no 3 bits: choose 8, 4, 2"),
        ("llama", Symmetric(), "5", "gptq", "no 5 bits: choose 8, 4, 3, 2"),
        ("llama", Symmetric(), "16", "gptq", "choose --format hf"),
        ("llama", Pot(), "4", "gptq", "levels of Pot are uneven, which integers cannot hold: choose --format hf"),
        ("llama", Apot(), "4", "compressed-tensors", "levels of Apot are uneven"),
    ],
)
def test_refuses_what_a_format_cannot_hold(
    architecture: str,
    grid: Grid,
    bitmap: str,
    format: str,
    says: str,
    bare: Build,
    character_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=says):
        export_fixed(bare(architecture, grid), character_tokenizer, tmp_path / "out", bitmap, format)
    assert list(tmp_path.iterdir()) == []


def test_gptq_refuses_sizes_that_do_not_fill_words(
    tiny: Build, character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_switchable(tiny("llama"), WIDTHS, Symmetric(), adapters=False)
    with pytest.raises(UserError, match=r"32 at a time, and model\.layers\.0\.self_attn\.k_proj has 32 and 16"):
        export_fixed(model, character_tokenizer, tmp_path / "out", "4", "gptq")


KILLED = """
import sys, time
from switchq.inference import export_fixed
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.quant import Symmetric
import switchq.inference.formats.write as write
def stop(*arguments, **options):
    print("here", flush=True)
    time.sleep(60)
write.seal = stop
tokenizer = load_tokenizer(sys.argv[1])
tokenizer.save_pretrained = stop if sys.argv[3] == "early" else tokenizer.save_pretrained
model = make_switchable(load_model(sys.argv[1]), (4,), Symmetric(), adapters=False)
export_fixed(model, tokenizer, sys.argv[2], "4", "gptq")
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_killed_export_leaves_nothing_in_its_place(when: str, save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(save_tiny("gpt2")), str(tmp_path / "out"), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    assert not (left / "switchq.json").exists()
    if when == "early":
        with pytest.raises((OSError, ValueError)):
            AutoModelForCausalLM.from_pretrained(left)
