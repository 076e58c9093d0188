import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from switchq.errors import UserError
from switchq.models import content_hash, context_window, load_config, load_model, load_tokenizer, make_switchable
from switchq.models.made import is_rounded

BuildModel = Callable[..., PreTrainedModel]
SaveModel = Callable[..., Path]


@pytest.fixture
def folder(save_tiny: SaveModel) -> Path:
    return save_tiny("gpt2")


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_loads_what_was_saved(tiny: BuildModel, save_tiny: SaveModel, architecture: str, tokens_BT: Tensor) -> None:
    model = load_model(str(save_tiny(architecture)))
    assert not model.training
    assert torch.equal(model(tokens_BT).logits, tiny(architecture)(tokens_BT).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(folder: Path, dtype: str) -> None:
    model = load_model(str(folder), dtype)  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_folder_below_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert content_hash(load_model(f"~/{folder.name}")) == content_hash(load_model(str(folder)))
    assert load_tokenizer(f"~/{folder.name}").eos_token == "<eos>"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("artifact.json", {}, "is an artifact of `switchq export`: switchq eval --artifact"),
        ("switchq.json", {"kind": "ptq-model", "files": {}, "format": "gptq"}, "packed as gptq: switchq verify"),
    ],
)
def test_packed_codes_are_told_what_takes_them(folder: Path, name: str, content: dict[str, Any], says: str) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=says):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("said", "rounded"),
    [
        ('{"kind": "ptq-model", "files": {}}', True),
        ('{"kind": "fixed-model", "files": {}, "format": "hf", "widths": {"a": 16, "b": 4}}', True),
        ('{"kind": "fixed-model", "files": {}, "format": "hf", "widths": {"a": 16, "b": 16}}', False),
        ('{"name": "mine"}', False),
        ("Dear diary", False),
        (None, False),
    ],
)
def test_whether_weights_are_rounded_already(folder: Path, said: str | None, rounded: bool) -> None:
    if said is not None:
        (folder / "switchq.json").write_text(said)
    assert is_rounded(str(folder)) == rounded
    load_model(str(folder))


def test_an_unknown_architecture_is_told_the_supported_ones(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    with pytest.raises(UserError, match=r"'bloom' is not supported.*gpt2, llama, mistral, qwen2, qwen3, opt"):
        load_model(str(folder))


@pytest.mark.parametrize("load", [load_config, load_model, load_tokenizer])
def test_a_missing_folder(tmp_path: Path, load: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match=r"no model folder .*absent"):
        load(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no model folder .*file"):
        load(str(tmp_path / "file"))


@pytest.mark.parametrize("load", [load_config, load_model, load_tokenizer])
def test_an_empty_folder(tmp_path: Path, load: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match=r"cannot load the (model|tokenizer) in ") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nmore\nlines")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(UserError, match=r"'someone/model'.*connect.*give the path of a local folder") as caught:
        load_config("someone/model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999], ids="{}".format)
def test_truncated_weights(folder: Path, keep: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="cannot load the model in ") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match="cannot load the model in "):
        load_model(str(folder))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the model in "):
        load_model(str(folder))


def test_remote_code_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(UserError, match="cannot load the model in "):
        load_model(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    edit_weights(folder, lambda weights: weights["transformer.h.1.mlp.c_fc.weight"][3].fill_(value))
    with pytest.raises(UserError, match=r"transformer.h.1.mlp.c_fc.weight has values that are not finite"):
        load_model(str(folder))


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("transformer.h.1.mlp.c_fc.weight"))
    with pytest.raises(UserError, match=r"incomplete: transformer.h.1.mlp.c_fc.weight"):
        load_model(str(folder))


def test_weights_of_the_wrong_shape(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"transformer.h.1.mlp.c_fc.weight": torch.zeros(32, 64)}))
    with pytest.raises(UserError, match="cannot load the model in "):
        load_model(str(folder))


def test_tokenizer_pads_with_its_end(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    assert tokenizer(["ab", "abc"], padding=True)["attention_mask"] == [[1, 1, 0], [1, 1, 1]]


def test_tokenizer_keeps_its_own_padding(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.pad_token = "a"
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token == "a"


def test_a_tokenizer_without_an_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    content.pop("eos_token")
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no end-of-text token"):
        load_tokenizer(str(folder))


def test_context_window(tiny: BuildModel, save_tiny: SaveModel, architecture: str) -> None:
    model = tiny(architecture)
    assert context_window(model) == context_window(model.config) == 64
    assert context_window(str(save_tiny(architecture))) == 64


def test_content_hash_tells_models_apart(tiny_gpt2: BuildModel) -> None:
    reference = content_hash(tiny_gpt2())
    assert content_hash(tiny_gpt2()) == reference
    assert content_hash(tiny_gpt2(seed=1)) != reference
    changed = tiny_gpt2()
    with torch.no_grad():
        changed.transformer.h[0].mlp.c_fc.weight[5, 7] += 1e-6
    assert content_hash(changed) != reference


def test_content_hash_does_not_depend_on_storage(tiny_llama: BuildModel, tmp_path: Path) -> None:
    """Neither on the dtype in the file, nor on the order of its tensors, nor on its division into files."""
    model = tiny_llama().to(torch.bfloat16)
    reference = content_hash(model)
    assert content_hash(model.float()) == reference
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert content_hash(load_model(str(tmp_path / "sharded"))) == reference

    model.save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "reordered")
    weights = load_file(tmp_path / "one" / "model.safetensors")
    save_file(
        {name: weights[name].to(torch.bfloat16) for name in reversed(weights)},
        tmp_path / "reordered" / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert content_hash(load_model(str(tmp_path / "one"))) == reference
    assert content_hash(load_model(str(tmp_path / "reordered"))) == reference

    ordered = torch.nn.ParameterDict({"a": torch.ones(2), "b": torch.zeros(3)})
    swapped = torch.nn.ParameterDict({"b": torch.zeros(3), "a": torch.ones(2)})
    assert content_hash(ordered) == content_hash(swapped)


def test_content_hash_sees_names_and_shapes() -> None:
    hashes = [
        content_hash(torch.nn.ParameterDict(parameters))
        for parameters in (
            {"a": torch.zeros(6)},
            {"b": torch.zeros(6)},
            {"a": torch.zeros(2, 3)},
            {"a": torch.zeros(3, 2)},
        )
    ]
    assert len(set(hashes)) == 4


def test_real_models(shared: Path) -> None:
    """A model that others trained: loads, switches, and at 16 bits is what `transformers` makes of it."""
    folder = shared / "models" / "gpt2-micro"
    if not folder.is_dir():
        pytest.skip("needs ../shared/models/gpt2-micro")
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder))
    inputs = tokenizer("The river runs through the town.", return_tensors="pt")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(**inputs).logits
        assert torch.equal(make_switchable(model)(**inputs).logits, expected)
