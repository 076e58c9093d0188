"""`prefer`: how an artifact is read; layers are the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.inference import Exported, SwitchableLM
from switchq.models import make_switchable
from switchq.quant import Nested

BITMAPS = ("2", "4/2", "8/2", "4", "8")

Build = Callable[..., PreTrainedModel]
Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def folder(trained: Build, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("preferences") / "artifact"
    export(trained("gpt2", Nested(16)), place)
    return place


@torch.no_grad()
def test_switches_like_any_other(folder: Path, tokens_BT: Tensor) -> None:
    lm = SwitchableLM.from_pretrained(folder, "8", prefer="memory")
    for bitmap in (*BITMAPS, *BITMAPS):
        lm.set_bitmap(bitmap)
        fresh = SwitchableLM.from_pretrained(folder, bitmap, prefer="memory")
        assert lm.bitmap == fresh.bitmap
        assert torch.equal(lm(tokens_BT).logits, fresh(tokens_BT).logits)


def test_layers_fall_with_every_bitmap(tiny: Build, export: Export, tmp_path: Path) -> None:
    """Of rows that fill the bytes which are taken apart at a time."""
    export(make_switchable(tiny("gpt2", n_embd=128), (8, 4, 2), Nested(), rank={8: 16, 4: 16, 2: 16}), tmp_path / "a")
    bitmaps = ("8", "8/4", "4", "4/2", "2")
    held = [SwitchableLM.from_pretrained(tmp_path / "a", one).resident_bytes for one in bitmaps]
    assert held == sorted(set(held), reverse=True)


@torch.no_grad()
def test_layers_are_those_of_speed(folder: Path, tokens_BT: Tensor) -> None:
    both = [SwitchableLM.from_pretrained(folder, "4/2", prefer=prefer) for prefer in ("speed", "memory")]  # type: ignore[arg-type]
    assert both[0].resident_bytes == both[1].resident_bytes
    assert torch.equal(*(lm(tokens_BT).logits for lm in both))


@torch.no_grad()
def test_where_llvm_makes_no_code_it_says_so(folder: Path, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("model", "kernels.choice"):
        monkeypatch.setattr(f"switchq.inference.{module}.integer_products", lambda: False)
    with pytest.warns(UserWarning, match="LLVM makes no code here: weights are decoded in every call"):
        lm = SwitchableLM.from_pretrained(folder, "2")
    plain = SwitchableLM.from_pretrained(folder, "2", packed=False)
    assert torch.equal(lm(tokens_BT).logits, plain(tokens_BT).logits)


def test_an_unknown_preference(folder: Path) -> None:
    with pytest.raises(UserError, match="prefer is speed or memory, not 'size'"):
        SwitchableLM.from_pretrained(folder, prefer="size")  # type: ignore[arg-type]
