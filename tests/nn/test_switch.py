import copy
import tracemalloc
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.bitmap import FULL, Bitmap
from switchq.errors import UserError
from switchq.models import make_switchable
from switchq.nn import at, attach_switch, get_switch, set_bitmap, switch_layers

BuildModel = Callable[..., PreTrainedModel]


@pytest.fixture
def model(tiny_gpt2: BuildModel) -> PreTrainedModel:
    """GPT-2 with adapters at 8, 4 and 2 bits that all do something."""
    model = make_switchable(tiny_gpt2(), rank={8: 2, 4: 3, 2: 4})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def snapshot(model: PreTrainedModel) -> dict[str, tuple[int, int, bool]]:
    """Address, version and `requires_grad` of every parameter and buffer."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: (tensor.data_ptr(), tensor._version, tensor.requires_grad) for name, tensor in tensors.items()}


@torch.no_grad()
def logits(model: PreTrainedModel, tokens_BT: Tensor) -> Tensor:
    return model(tokens_BT).logits


def test_starts_at_full_precision(model: PreTrainedModel) -> None:
    assert set(get_switch(model).bitmap) == {FULL}
    assert {layer.bits for layer in switch_layers(model)} == {FULL}


def test_names_are_those_of_the_original_model(tiny_gpt2: BuildModel, model: PreTrainedModel) -> None:
    original = dict(tiny_gpt2().named_modules())
    names = get_switch(model).names
    assert len(names) == 8
    assert names[:2] == ("transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj")
    assert all(name in original for name in names)


@pytest.mark.parametrize("bitmap", ["8", 4, "8/4", "attn=8,mlp=2", [8, 4, 2, 3, 5, 6, 7, 16], Bitmap([4] * 8)], ids=str)
def test_sets_every_layer(model: PreTrainedModel, bitmap: str | int | list[int] | Bitmap) -> None:
    result = set_bitmap(model, bitmap)
    assert [layer.bits for layer in switch_layers(model)] == list(result)
    assert get_switch(model).bitmap == result
    if isinstance(bitmap, list):
        assert list(result) == bitmap


@pytest.mark.parametrize("bitmap", [[8], [8] * 9, Bitmap([4]), "8,4"], ids=str)
def test_a_bitmap_of_the_wrong_length_changes_nothing(model: PreTrainedModel, bitmap: list[int] | Bitmap | str) -> None:
    set_bitmap(model, "4/2")
    with pytest.raises(UserError, match=r"\d widths?.*8 quantised layers"):
        set_bitmap(model, bitmap)
    assert [layer.bits for layer in switch_layers(model)] == [4, 2] * 4


@pytest.mark.parametrize("bitmap", [[], [1] * 8, "9", "head=8"], ids=str)
def test_other_mistakes_change_nothing(model: PreTrainedModel, bitmap: list[int] | str) -> None:
    set_bitmap(model, "4/2")
    with pytest.raises(UserError):
        set_bitmap(model, bitmap)
    assert [layer.bits for layer in switch_layers(model)] == [4, 2] * 4


def test_switching_is_exact_whatever_came_before(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    bitmaps = ["16", "8", "8/4", "4", "4/2", "2"]
    fresh = {}
    for bitmap in bitmaps:
        other = copy.deepcopy(model)
        set_bitmap(other, bitmap)
        fresh[bitmap] = logits(other, tokens_BT)
    for bitmap in [*reversed(bitmaps), "2", "16", "4", *bitmaps]:
        set_bitmap(model, bitmap)
        assert torch.equal(logits(model, tokens_BT), fresh[bitmap]), bitmap
    assert len({float(values.sum()) for values in fresh.values()}) == len(bitmaps)


def test_touches_no_tensor(model: PreTrainedModel) -> None:
    before = snapshot(model)
    for bitmap in ("8", "2", "8/4", "16", "4/2"):
        for adapters in (True, False):
            set_bitmap(model, bitmap, adapters)
            assert snapshot(model) == before


def test_allocates_nothing(model: PreTrainedModel) -> None:
    bitmaps = [Bitmap.parse(text, get_switch(model).names) for text in ("8", "4/2", "2")]
    for bitmap in bitmaps:
        set_bitmap(model, bitmap)
    tracemalloc.start()
    try:
        for bitmap in bitmaps * 100:
            set_bitmap(model, bitmap)
        tracemalloc.clear_traces()
        for bitmap in bitmaps * 100:
            set_bitmap(model, bitmap)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 512
    assert peak < 4096


def test_allocates_no_tensor(model: PreTrainedModel) -> None:
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        set_bitmap(model, "8/4")
        set_bitmap(model, "2")
    assert list(profile.events()) == []


def test_an_unprepared_width_is_rounded_once(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    set_bitmap(model, 5)
    before = snapshot(model)
    assert any("5bit" in name for name in before)
    set_bitmap(model, 8)
    set_bitmap(model, 5)
    assert snapshot(model) == before


@pytest.mark.parametrize(("bits", "expected"), [(8, 8), (7, 8), (5, 8), (4, 4), (3, 4), (2, 2), (16, 8)], ids=str)
def test_adapter_of_a_width(model: PreTrainedModel, bits: int, expected: int) -> None:
    """Its own, else the next wider one, else the widest there is."""
    layer = switch_layers(model)[0]
    assert layer.adapters_for(bits) == [f"bits_{expected}"]
    set_bitmap(model, bits)
    assert layer.lora is not None
    assert layer.lora.active_adapters == [f"bits_{expected}"]


def test_adapter_of_a_width_wider_than_all(tiny_gpt2: BuildModel) -> None:
    model = make_switchable(tiny_gpt2(), bits=(4, 2), rank={4: 2, 2: 2})
    assert [switch_layers(model)[0].adapters_for(bits)[0] for bits in (2, 3, 4, 8, 16)] == [
        "bits_2",
        "bits_4",
        "bits_4",
        "bits_4",
        "bits_4",
    ]


def test_adapter_of_full_precision(tiny_gpt2: BuildModel) -> None:
    model = make_switchable(tiny_gpt2(), bits=(16, 4), rank={16: 2, 4: 2})
    assert [switch_layers(model)[0].adapters_for(bits)[0] for bits in (4, 8, 16)] == ["bits_4", "bits_16", "bits_16"]


def test_every_layer_runs_the_adapter_of_its_own_width(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    set_bitmap(model, "8,4,2,8,4,2,8,4")
    model(tokens_BT).logits.sum().backward()
    for bits, layer in zip((8, 4, 2, 8, 4, 2, 8, 4), switch_layers(model)):
        assert layer.lora is not None
        for name, module in layer.lora.lora_B.items():
            assert (module.weight.grad is not None) == (name == f"bits_{bits}")


@pytest.mark.parametrize("bitmap", ["16", "8", "8/4", "2"])
def test_adapters_off_is_the_base(
    model: PreTrainedModel, tiny_gpt2: BuildModel, tokens_BT: Tensor, bitmap: str
) -> None:
    bare = make_switchable(tiny_gpt2(), adapters=False)
    set_bitmap(bare, bitmap)
    expected = logits(bare, tokens_BT)

    set_bitmap(model, bitmap)
    assert not torch.equal(logits(model, tokens_BT), expected)
    for layer in switch_layers(model):
        layer.lora.enable_adapters(False)  # type: ignore[union-attr]
    assert torch.equal(logits(model, tokens_BT), expected)
    for layer in switch_layers(model):
        layer.lora.enable_adapters(True)  # type: ignore[union-attr]
    set_bitmap(model, bitmap, adapters=False)
    assert torch.equal(logits(model, tokens_BT), expected)


def test_at_restores(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    set_bitmap(model, "8/4", adapters=False)
    before = logits(model, tokens_BT)
    with at(model, 2) as bitmap:
        assert set(bitmap) == {2}
        assert get_switch(model).adapters
        with at(model, 16, adapters=False):
            assert {layer.bits for layer in switch_layers(model)} == {16}
        assert {layer.bits for layer in switch_layers(model)} == {2}
        assert get_switch(model).adapters
    assert str(get_switch(model).bitmap) == "8/4"
    assert not get_switch(model).adapters
    assert torch.equal(logits(model, tokens_BT), before)


def test_at_restores_after_an_exception(model: PreTrainedModel) -> None:
    set_bitmap(model, "8/4")
    with pytest.raises(KeyError), at(model, 2, adapters=False):
        raise KeyError
    assert str(get_switch(model).bitmap) == "8/4"
    assert get_switch(model).adapters
    with pytest.raises(UserError), at(model, "9"):
        pass
    assert [layer.bits for layer in switch_layers(model)] == [8, 4] * 4


def test_copies_switch_on_their_own(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    other = copy.deepcopy(model)
    expected = logits(model, tokens_BT)
    set_bitmap(other, 2)
    assert torch.equal(logits(model, tokens_BT), expected)
    assert {layer.bits for layer in switch_layers(model)} == {FULL}


def test_a_plain_model_is_not_switchable(tiny_gpt2: BuildModel) -> None:
    with pytest.raises(UserError, match="not switchable"):
        set_bitmap(tiny_gpt2(), 8)
    with pytest.raises(UserError, match="no quantised layers"):
        attach_switch(tiny_gpt2())


def test_a_compiled_model_follows_the_switch(model: PreTrainedModel, tokens_BT: Tensor) -> None:
    """One graph per layer state: what was compiled at one width must not run at another."""
    block = model.transformer.h[0].mlp
    x = torch.randn(2, 3, 32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(block, backend="eager")
        for bits in (8, 2, 16, 2, 4, 8):
            set_bitmap(model, bits)
            torch.testing.assert_close(compiled(x), block(x))


def test_the_shared_adapter_runs_at_every_width(tiny_gpt2: BuildModel) -> None:
    """A width of rank 0 has the shared one alone; 16 bits run as the widest trained width does."""
    model = make_switchable(tiny_gpt2(), shared_rank=3, rank={8: 0, 4: 2, 2: 2})
    layer = switch_layers(model)[0]
    assert {bits: layer.adapters_for(bits) for bits in (2, 3, 4, 5, 8, 16)} == {
        2: ["shared", "bits_2"],
        3: ["shared", "bits_4"],
        4: ["shared", "bits_4"],
        5: ["shared"],
        8: ["shared"],
        16: ["shared"],
    }


def test_the_shared_adapter_adds_to_that_of_the_width(tiny_gpt2: BuildModel, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_gpt2(), shared_rank=3, rank={8: 2, 4: 2, 2: 2})
    with torch.no_grad():
        before = {bits: model_at(model, bits, tokens_BT) for bits in (8, 2)}
        for name, parameter in model.named_parameters():
            if "lora_B.shared" in name:
                nn.init.normal_(parameter, std=0.05)
        for bits, logits in before.items():
            assert not torch.allclose(model_at(model, bits, tokens_BT), logits)
        for name, parameter in model.named_parameters():
            if "lora_B.bits_2" in name:
                nn.init.normal_(parameter, std=0.05)
        shared_only = model_at(model, 8, tokens_BT)
        for layer in switch_layers(model):  # what the sum is, computed from the weights
            assert layer.lora is not None
            lora = layer.lora
            delta_OI = sum(
                lora.scaling[name] * lora.lora_B[name].weight @ lora.lora_A[name].weight
                for name in ("shared", "bits_2")
            )
            layer.linear.weight_2bit += delta_OI
        with_both = model_at(model, 2, tokens_BT, adapters=False)
        for layer in switch_layers(model):
            layer.linear.forget(2)
        torch.testing.assert_close(model_at(model, 2, tokens_BT), with_both)
        assert torch.equal(model_at(model, 8, tokens_BT), shared_only)


def model_at(model: PreTrainedModel, bits: int, tokens_BT: Tensor, adapters: bool = True) -> Tensor:
    with at(model, bits, adapters=adapters):
        return model(tokens_BT).logits
