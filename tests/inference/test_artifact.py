"""An artifact runs as its training did, reads only what it needs, and never gives a wrong answer when damaged."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.evaluation.memory import weight_bytes
from switchq.inference import Artifact, Exported, SwitchableLM
from switchq.inference.artifact import MANIFEST, WEIGHTS
from switchq.inference.model import ArtifactSource
from switchq.inference.table import HalfHead
from switchq.models import architecture_of
from switchq.nn import at, get_switch, switch_layers
from switchq.quant import Asymmetric, Nested, Symmetric
from switchq.quant.planes import plane_bytes

from .conftest import WIDTHS

Export = Callable[..., Exported]
Build = Callable[..., PreTrainedModel]
BITMAPS = ("8", "4", "2", "8/2", "4/8")


@pytest.fixture(scope="module")
def model(trained: Build) -> PreTrainedModel:
    return trained()


@pytest.fixture(scope="module")
def folder(model: PreTrainedModel, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artifacts") / "gpt2"
    export(model, place)
    return place


@torch.no_grad()
def logits(model: PreTrainedModel, tokens_BT: Tensor, bitmap: str, adapters: bool = True) -> Tensor:
    with at(model, bitmap, adapters):
        return model(tokens_BT).logits


@pytest.mark.parametrize("group_size", [None, 16], ids=["rows", "groups"])
def test_runs_as_its_training_did(
    architecture: str, group_size: int | None, trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path
) -> None:
    model = trained(architecture, Nested(group_size))
    export(model, tmp_path / "artifact")
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", "2", packed=False)
    for bitmap in BITMAPS:
        for adapters in (True, False):
            expected = logits(model, tokens_BT, bitmap, adapters)
            torch.testing.assert_close(logits(lm.model, tokens_BT, bitmap, adapters), expected, rtol=1e-5, atol=2e-5)


def test_a_shared_adapter_runs_too(trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path) -> None:
    """8 bits have the shared one alone, the others one of their own beside it."""
    model = trained("gpt2", shared_rank=3, rank={8: 0, 4: 3, 2: 4})
    export(model, tmp_path / "artifact")
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", "2", packed=False)
    for bitmap in BITMAPS:
        expected = logits(model, tokens_BT, bitmap)
        torch.testing.assert_close(logits(lm.model, tokens_BT, bitmap), expected, rtol=1e-5, atol=2e-5)
        assert not torch.allclose(logits(model, tokens_BT, bitmap, adapters=False), expected)


def test_a_trained_base_is_stored_on_the_grid_of_its_training(
    trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path
) -> None:
    """The grid was fitted to the weight before training, and is no other at any width now."""
    model = trained("gpt2", train_base=True)
    with torch.no_grad():
        for layer in switch_layers(model):
            layer.linear.weight *= 1.5
    done = export(model, tmp_path / "artifact")
    assert done.losses == {}
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", packed=False)
    for ours, theirs in zip(switch_layers(lm.model), switch_layers(model), strict=True):
        for bits in WIDTHS:
            assert torch.equal(ours.linear.weight_at(bits), theirs.linear.rounded(bits))  # type: ignore[attr-defined]
    torch.testing.assert_close(logits(lm.model, tokens_BT, "2"), logits(model, tokens_BT, "2"), rtol=1e-5, atol=2e-5)


def test_learned_scales_stay_behind(trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path) -> None:
    """They belong to a grid that is not stored; what is stored is what the same weights give without them."""
    export(trained("gpt2", Asymmetric(16), learn_scales=True), tmp_path / "learned")
    export(trained("gpt2", Asymmetric(16)), tmp_path / "plain")
    learned, plain = (SwitchableLM.from_pretrained(tmp_path / name, packed=False) for name in ("learned", "plain"))
    assert torch.equal(logits(learned.model, tokens_BT, "4"), logits(plain.model, tokens_BT, "4"))
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("learned", "plain")]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("grid", [Nested(), Nested(16), Nested(16, "mse"), Nested(32)], ids=repr)
def test_weights_are_those_of_training_bit_for_bit(
    grid: Nested, trained: Build, export: Export, tmp_path: Path
) -> None:
    model = trained("gpt2", grid)
    export(model, tmp_path / "artifact", widths=tuple(range(2, 9)))
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact")
    for ours, theirs in zip(switch_layers(lm.model), switch_layers(model), strict=True):
        for bits in range(2, 9):
            assert torch.equal(ours.linear.weight_at(bits), theirs.linear.round_weight(bits))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("bitmap", "tolerance"), [("8", 5e-4), ("4", 5e-3), ("2", 2e-2)])
def test_packed_is_near(model: PreTrainedModel, folder: Path, tokens_BT: Tensor, bitmap: str, tolerance: float) -> None:
    expected = logits(model, tokens_BT, bitmap)
    packed = logits(SwitchableLM.from_pretrained(folder, bitmap).model, tokens_BT, bitmap)
    assert float((packed - expected).std() / expected.std()) < tolerance


def test_another_grid_is_rounded_again_and_told(
    trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path
) -> None:
    for number, grid in enumerate((Symmetric(), Asymmetric(16), Nested(16, double=True))):
        place = tmp_path / str(number)
        done = export(trained("gpt2", grid), place)
        assert list(done.losses) == list(WIDTHS)
        assert all(loss.before > 0 and loss.after > 0 for loss in done.losses.values())
        assert set(done.manifest.source["requantised"]) == set(WIDTHS)
        lm = SwitchableLM.from_pretrained(place, packed=False)
        nested = trained("gpt2", Nested(grid.group_size))
        torch.testing.assert_close(
            logits(lm.model, tokens_BT, "4"), logits(nested, tokens_BT, "4"), rtol=1e-5, atol=2e-5
        )


def test_a_nested_one_is_not(folder: Path) -> None:
    assert Artifact(folder).manifest.source["requantised"] == {}
    assert json.loads((folder / MANIFEST).read_text())["version"] == 1


def needed(folder: Path, bitmap: Bitmap) -> int:
    """Bytes of planes, levels and adapters by hand, for one scale a row."""
    ranks, total = {8: 2, 4: 3, 2: 4}, 0
    for (outputs, inputs), bits in zip(Artifact(folder).manifest.layers.values(), bitmap, strict=True):
        total += bits * plane_bytes((outputs, inputs)) + 4 * outputs + 2 * ranks[bits] * (outputs + inputs)
    return total


@pytest.mark.parametrize("written", [*BITMAPS, "attn=2,mlp=4"])
def test_reads_what_the_bitmap_needs(folder: Path, written: str) -> None:
    lm = SwitchableLM.from_pretrained(folder, written)
    rest = sum(parameter.nbytes for parameter in lm.model.parameters())
    assert lm.bytes_read == rest + needed(folder, lm.bitmap)


def test_more_precision_reads_the_missing_planes(folder: Path) -> None:
    lm = SwitchableLM.from_pretrained(folder, "2")
    names = get_switch(lm.model).names
    before = lm.bytes_read
    lm.set_bitmap("8")
    planes = sum(6 * plane_bytes(shape) for shape in lm.artifact.manifest.layers.values())
    levels_and_adapters = needed(folder, Bitmap.parse("8", names)) - sum(
        8 * plane_bytes(shape) for shape in lm.artifact.manifest.layers.values()
    )
    assert lm.bytes_read == before + planes + levels_and_adapters
    raised = lm.bytes_read
    lm.set_bitmap("2")
    lm.set_bitmap("8/2")
    assert lm.bytes_read == raised


def test_weight_bytes_are_those_of_the_switchable_model(model: PreTrainedModel, folder: Path) -> None:
    lm = SwitchableLM.from_pretrained(folder)
    for written in BITMAPS:
        bitmap = Bitmap.parse(written, get_switch(model).names)
        for adapters in (True, False):
            ours = weight_bytes(lm.model, bitmap, adapters=adapters)
            assert ours == weight_bytes(model, bitmap, adapters=adapters)


def test_plane_k_of_all_layers_lies_together(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    starts = [(entry["data_offsets"][0], name) for name, entry in header.items() if name.startswith("plane")]
    numbers = [name.partition(".")[0] for _, name in sorted(starts)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_8_bit_embeddings(architecture: str, trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path) -> None:
    """The model with its table rounded row by row, embedding and head, tied or not."""
    model = trained(architecture)
    export(model, tmp_path / "artifact", embedding_bits=8)
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", packed=False)
    rounder = Symmetric()
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    packed = {layer.linear.weight for layer in switch_layers(model)}
    for parameter in model.parameters():
        if parameter in tables:
            parameter.data = rounder.fake_quantize(parameter, rounder.fit(parameter, 8), 8)
        elif parameter.dim() > 1 and parameter not in packed:
            parameter.data = parameter.data.half().float()
    torch.testing.assert_close(logits(lm.model, tokens_BT, "8"), logits(model, tokens_BT, "8"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_float16_embeddings(
    architecture: str,
    trained: Build,
    export: Export,
    tokens_BT: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They run as they are stored, tied or not; where PyTorch has no such product, in float32, with the same logits."""
    export(trained(architecture), tmp_path / "artifact", embedding_bits=16)
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", "8")
    assert isinstance(lm.model.get_output_embeddings(), HalfHead)
    sizes = weight_bytes(lm.model, lm.bitmap, adapters=True)
    monkeypatch.setattr("switchq.inference.source.half_products", lambda: False)
    wide = SwitchableLM.from_pretrained(tmp_path / "artifact", "8")
    assert isinstance(wide.model.get_output_embeddings(), torch.nn.Linear)
    torch.testing.assert_close(
        logits(lm.model, tokens_BT, "8"), logits(wide.model, tokens_BT, "8"), rtol=1e-5, atol=1e-5
    )
    assert sizes == weight_bytes(wide.model, wide.bitmap, adapters=True)


def test_the_folder_holds_no_pickle(folder: Path) -> None:
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("bitmap", ["16", "3", "attn=8", "8,4"], ids=str)
def test_a_bitmap_that_it_does_not_hold(folder: Path, bitmap: str) -> None:
    with pytest.raises(UserError, match=r"only for 8, 4, 2|widths, but this model"):
        SwitchableLM.from_pretrained(folder, bitmap)
    lm = SwitchableLM.from_pretrained(folder, "4")
    with pytest.raises(UserError):
        lm.set_bitmap(bitmap)
    assert lm.bitmap == Bitmap.parse("4", get_switch(lm.model).names)
    assert {layer.bits for layer in switch_layers(lm.model)} == {4}


def load_all(folder: Path) -> None:
    """Load and touch every tensor, as running at each width does."""
    for bits in WIDTHS:
        SwitchableLM.from_pretrained(folder, bits)


@pytest.mark.parametrize("where", [0.0, 0.003, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_flipped_bit_is_found(folder: Path, where: float, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[int(where * len(content))] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_all(copy)


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST, "tokenizer.json", "config.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_found(folder: Path, name: str, share: float, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"damaged|not a switchq artifact"):
        SwitchableLM.from_pretrained(copy, "2")


def test_a_missing_file_is_found(folder: Path, tmp_path: Path) -> None:
    for name in [path.name for path in folder.iterdir()]:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match=r"artifact|missing"):
            SwitchableLM.from_pretrained(copy, "2")


@pytest.mark.parametrize(
    "change", [{"widths": [8, 4, 2, 3]}, {"adapters": [8, 4]}, {"data": {"template": "x"}}], ids=str
)
def test_a_changed_manifest_is_found(folder: Path, change: dict[str, object], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match="damaged"):
        Artifact(copy)


def test_a_newer_format_says_so(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(UserError, match="format version 99, and this switchq reads up to 2: use a newer switchq"):
        Artifact(copy)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no artifact\.json"):
        SwitchableLM.from_pretrained(tmp_path)


def test_an_export_that_is_killed_leaves_nothing_that_loads(
    model: PreTrainedModel, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder as it is just before the manifest is written is what a kill leaves behind."""
    left = tmp_path / "left"

    def killed(model: PreTrainedModel, tokenizer: object, place: Path, manifest: object) -> None:
        shutil.copytree(place, left)
        raise KeyboardInterrupt

    monkeypatch.setattr("switchq.inference.export._finish", killed)
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["left"]
    assert (left / WEIGHTS).is_file()
    with pytest.raises(UserError, match="not a switchq artifact"):
        SwitchableLM.from_pretrained(left)


def test_a_folder_that_is_there_is_kept(model: PreTrainedModel, export: Export, tmp_path: Path) -> None:
    place = tmp_path / "artifact"
    place.mkdir()
    (place / "diary").write_text("dear")
    with pytest.raises(UserError, match="is there already"):
        export(model, place)
    assert (place / "diary").read_text() == "dear"
    export(model, place, overwrite=True)
    assert not (place / "diary").exists()
    load_all(place)


def test_quantised_embeddings_are_refused(trained: Build, export: Export, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--embeddings 8"):
        export(trained(extra=["head", "embeddings"]), tmp_path / "artifact")


def test_16_bits_alone_are_refused(model: PreTrainedModel, export: Export, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 bits alone"):
        export(model, tmp_path / "artifact", widths=(16,))


def test_source_names_a_width_that_is_not_held(folder: Path) -> None:
    artifact = Artifact(folder)
    lm = SwitchableLM.from_pretrained(folder)
    linear = get_switch(lm.model).layers[0].linear
    assert isinstance(linear.source, ArtifactSource)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="nothing stored for 5 bits, only for 8, 4, 2"):
        linear.prepared(5, True)  # type: ignore[attr-defined]
    assert artifact.manifest.layers.keys() == set(architecture_of(lm.model.config).linear_names(lm.model))
