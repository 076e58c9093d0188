"""`prefer`: what a model is packed for, where speed and memory do not go together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.inference import Exported, SwitchableLM
from switchq.inference.kernels import Bags, Kernel
from switchq.nn import get_switch
from switchq.quant import Nested

BITMAPS = ("2", "4/2", "8/2", "4", "8")

Build = Callable[..., PreTrainedModel]
Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def folder(trained: Build, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("preferences") / "artifact"
    export(trained("gpt2", Nested(16)), place)
    return place


def kernels(lm: SwitchableLM) -> list[Kernel]:
    return [layer.linear.ready.kernel for layer in get_switch(lm.model).layers]  # type: ignore[attr-defined]


@torch.no_grad()
@pytest.mark.parametrize("group_size", [None, 16], ids=["rows", "groups"])
def test_two_bits_have_the_numbers_of_training(
    architecture: str, group_size: int | None, trained: Build, export: Export, tokens_BT: Tensor, tmp_path: Path
) -> None:
    """Nothing is rounded but adapters whose sizes are multiples of 16, and here there are none."""
    export(trained(architecture, Nested(group_size)), tmp_path / "artifact")
    small = SwitchableLM.from_pretrained(tmp_path / "artifact", "2", prefer="memory")
    plain = SwitchableLM.from_pretrained(tmp_path / "artifact", "2", packed=False)
    assert all(isinstance(kernel, Bags) for kernel in kernels(small))
    for ids_NT in (tokens_BT, tokens_BT[:1, :1], tokens_BT[:, :3]):
        torch.testing.assert_close(small(ids_NT).logits, plain(ids_NT).logits, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_switches_like_any_other(folder: Path, tokens_BT: Tensor) -> None:
    lm = SwitchableLM.from_pretrained(folder, "8", prefer="memory")
    for bitmap in (*BITMAPS, *BITMAPS):
        lm.set_bitmap(bitmap)
        fresh = SwitchableLM.from_pretrained(folder, bitmap, prefer="memory")
        assert lm.bitmap == fresh.bitmap
        assert torch.equal(lm(tokens_BT).logits, fresh(tokens_BT).logits)


def test_layers_fall_with_every_bitmap(trained: Build, export: Export, tmp_path: Path) -> None:
    export(trained("gpt2", rank={8: 16, 4: 16, 2: 16}), tmp_path / "artifact")
    bitmaps = ("8", "8/4", "4", "4/2", "2")
    held = [SwitchableLM.from_pretrained(tmp_path / "artifact", one, prefer="memory").resident_bytes for one in bitmaps]
    assert held == sorted(set(held), reverse=True)


def test_two_bits_are_smaller_than_for_speed(folder: Path) -> None:
    speed, memory = (
        SwitchableLM.from_pretrained(folder, "2", prefer=prefer).resident_bytes
        for prefer in ("speed", "memory")  # type: ignore[arg-type]
    )
    assert memory < speed


def test_without_the_product_it_falls_back_and_says_so(
    folder: Path, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("model", "kernels.bags"):
        monkeypatch.setattr(f"switchq.inference.{module}.bag_products", lambda: False)
    with pytest.warns(UserWarning, match="no product of 2 bits: they are held in 4"):
        lm = SwitchableLM.from_pretrained(folder, "2", prefer="memory")
    assert not any(isinstance(kernel, Bags) for kernel in kernels(lm))
    as_ever = SwitchableLM.from_pretrained(folder, "2")
    assert torch.equal(lm(tokens_BT).logits, as_ever(tokens_BT).logits)


def test_an_unknown_preference(folder: Path) -> None:
    with pytest.raises(UserError, match="prefer is speed or memory, not 'size'"):
        SwitchableLM.from_pretrained(folder, prefer="size")  # type: ignore[arg-type]
