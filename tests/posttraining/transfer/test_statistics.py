"""The file of statistics: a round trip, and every way in which it can be spoilt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.errors import UserError
from switchq.posttraining.calibration import text_batches
from switchq.posttraining.ptq import Setting
from switchq.posttraining.ptq.transforms.activation_scale import power_scale
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.posttraining.transfer.channels import portrait
from switchq.posttraining.transfer.extract import extract
from switchq.posttraining.transfer.statistics import SourceStatistics, read_statistics

Tiny = Callable[..., PreTrainedModel]

SETTING = Setting(bits=3, group_size=16, skip=("*1.mlp.c_proj",))


@pytest.fixture
def made(tiny: Tiny, padded: PreTrainedTokenizerFast) -> SourceStatistics:
    """Two entries of a tiny model, one layer left out."""
    batches = text_batches([list(range(2, 30)), list(range(40, 70))], padded)
    known = portrait(tiny("gpt2"), "tiny", padded)
    found = SourceStatistics(known, {"group_size": 16}, {})
    for bits in (4, 3):
        setting = replace(SETTING, bits=bits)
        found = found.with_entry(extract(tiny("gpt2"), known, setting, batches, Protect(0.1, 3.0), progress=False))
    return found


def test_all_is_there(made: SourceStatistics) -> None:
    entry = made.entry(3, 0)
    assert (entry.bits, entry.blocks, len(entry.sites)) == (3, 2, 7)
    for site in entry.sites:
        assert 0 <= site.alpha < 1
        assert site.protect_ratio == len(site.protected_K) / site.place.inputs
        assert len(site.protected_K) == max(1, round(0.1 * site.place.inputs))
        assert site.importance_I[site.protected_K].min() >= site.importance_I.topk(len(site.protected_K)).values.min()
        torch.testing.assert_close(site.scale_I, power_scale(site.importance_I, site.alpha))


def test_round_trip(made: SourceStatistics, tmp_path: Path) -> None:
    made.write(tmp_path / "s.safetensors")
    read = read_statistics(tmp_path / "s.safetensors")
    assert list(read.entries) == list(made.entries)
    assert read.setting == made.setting
    for key, entry in made.entries.items():
        assert read.entries[key].sha256 == entry.sha256
        assert read.entries[key].seconds == entry.seconds
        for one, other in zip(entry.sites, read.entries[key].sites, strict=True):
            assert one.place == other.place
            assert (one.alpha, one.factor, one.protect_ratio) == (other.alpha, other.factor, other.protect_ratio)
            for name in ("importance_I", "scale_I", "protected_K"):
                assert torch.equal(getattr(one, name), getattr(other, name))
            assert torch.equal(one.channels.made_I, other.channels.made_I)
            assert torch.equal(one.channels.read_I, other.channels.read_I)
    read.write(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "s.safetensors").read_bytes()


def test_an_entry_hash_knows_what_is_carried(made: SourceStatistics) -> None:
    entry = made.entry(3, 0)
    first = entry.sites[0]
    changes = [
        replace(first, alpha=first.alpha + 0.05),
        replace(first, factor=4.0),
        replace(first, importance_I=first.importance_I * 2),
        replace(first, protected_K=first.protected_K.flip(0)),
        replace(first, channels=replace(first.channels, made_I=first.channels.made_I + 1)),
    ]
    hashes = {replace(entry, sites=(one, *entry.sites[1:])).sha256 for one in changes}
    assert len(hashes | {entry.sha256}) == len(changes) + 1
    assert replace(entry, seconds=99.0).sha256 == entry.sha256


def test_a_missing_entry_names_those_there_are(made: SourceStatistics) -> None:
    with pytest.raises(UserError, match="have no 2 bits seed 0: they have 4 bits seed 0, 3 bits seed 0"):
        made.entry(2, 0)


def rewritten(path: Path, **changes: object) -> None:
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["switchq"])
    save_file(load_file(path), path, metadata={"switchq": json.dumps({**header, **changes})})


def spoil_tensor(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["weights/0/made_I"][0] += 1
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "damaged or no file of statistics"),
        (lambda path: path.write_bytes(path.read_bytes()[:5]), "damaged or no file of statistics"),
        (lambda path: path.write_bytes(b""), "damaged or no file of statistics"),
        (lambda path: path.write_text("Dear diary"), "damaged or no file of statistics"),
        (lambda path: path.unlink(), "no file of statistics"),
        (lambda path: (path.unlink(), path.mkdir()), "no file of statistics"),
        (lambda path: rewritten(path, version=2), "format version 2, this program reads 1"),
        (lambda path: rewritten(path, kind="ptq"), "is no file of statistics that"),
        (lambda path: rewritten(path, sites=[]), "is damaged"),
        (lambda path: rewritten(path, entries=[{}]), "is damaged"),
        (lambda path: rewritten(path, model={}), "is damaged"),
        (lambda path: save_file({"a": torch.ones(1)}, path), "is no file of statistics that"),
        (spoil_tensor, "not those that were written"),
    ],
)  # fmt: skip
def test_spoilt_files(spoil: Callable[[Path], object], says: str, made: SourceStatistics, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    made.write(path)
    spoil(path)
    with pytest.raises(UserError, match=says):
        read_statistics(path)
