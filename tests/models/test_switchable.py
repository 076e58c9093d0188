import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.models import architecture_of, make_switchable
from switchq.nn import QuantEmbedding, QuantLinear, get_switch, set_bitmap, switch_layers
from switchq.quant import Asymmetric, Grid, Symmetric

BuildModel = Callable[..., PreTrainedModel]

LINEARS = {"gpt2": 4, "opt": 6}

GRIDS = [Symmetric(), Symmetric(32, "mse"), Asymmetric(16)]


@torch.no_grad()
def logits(model: PreTrainedModel, tokens_BT: Tensor) -> Tensor:
    return model(tokens_BT).logits


def round_in_place(model: PreTrainedModel, grid: Grid, bitmap: list[int]) -> None:
    """Independent of the modules: the plain model with its block weights replaced by rounded ones."""
    blocks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2]
    assert len(blocks) == 1
    linears = [m for m in blocks[0].modules() if isinstance(m, nn.Linear | Conv1D)]
    for linear, bits in zip(linears, bitmap, strict=True):
        if bits != FULL:
            transposed = isinstance(linear, Conv1D)
            weight_OI = linear.weight.data.T if transposed else linear.weight.data
            params = grid.fit(weight_OI, bits)
            rounded_OI = grid.decode(grid.encode(weight_OI, params, bits), params)
            linear.weight.data = rounded_OI.T if transposed else rounded_OI


def execution_order(model: PreTrainedModel, tokens_BT: Tensor) -> list[str]:
    """Names of the quantised layers in the order in which a forward pass runs them."""
    order: list[str] = []
    hooks = [
        layer.linear.register_forward_hook(lambda *_, name=layer.name: order.append(name))
        for layer in switch_layers(model)
    ]
    logits(model, tokens_BT)
    for hook in hooks:
        hook.remove()
    return order


@pytest.mark.parametrize("adapters", [False, True], ids=["bare", "adapters"])
def test_full_precision_is_the_original(tiny: BuildModel, architecture: str, adapters: bool, tokens_BT: Tensor) -> None:
    """Bit for bit; with adapters too, since they start at zero and can be switched off."""
    expected = logits(tiny(architecture), tokens_BT)
    model = make_switchable(tiny(architecture), adapters=adapters)
    assert torch.equal(logits(model, tokens_BT), expected)
    set_bitmap(model, "8/2")
    assert not torch.equal(logits(model, tokens_BT), expected)
    set_bitmap(model, 16, adapters=False)
    assert torch.equal(logits(model, tokens_BT), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_full_precision_is_the_original_in_half_precision(
    tiny: BuildModel, architecture: str, dtype: torch.dtype, tokens_BT: Tensor
) -> None:
    expected = logits(tiny(architecture).to(dtype), tokens_BT)
    assert torch.equal(logits(make_switchable(tiny(architecture).to(dtype)), tokens_BT), expected)


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
@pytest.mark.parametrize("pattern", [[8], [2], [8, 4], [3, 16, 5, 2, 7]], ids=str)
def test_is_the_plain_model_with_rounded_weights(
    tiny: BuildModel, architecture: str, grid: Grid, pattern: list[int], tokens_BT: Tensor
) -> None:
    model = make_switchable(tiny(architecture), grid=grid, adapters=False)
    bitmap = [pattern[i % len(pattern)] for i in range(len(switch_layers(model)))]
    set_bitmap(model, bitmap)
    plain = tiny(architecture)
    modules = dict(plain.named_modules())
    order = [name for name in modules if name in get_switch(model).names]
    assert order == list(get_switch(model).names)
    round_in_place(plain, grid, bitmap)
    torch.testing.assert_close(logits(model, tokens_BT), logits(plain, tokens_BT), rtol=0, atol=2e-6)


def test_every_block_linear_and_nothing_else(tiny: BuildModel, architecture: str) -> None:
    model = make_switchable(tiny(architecture), adapters=False)
    assert len(switch_layers(model)) == 2 * LINEARS.get(architecture, 7)
    quantised = {id(layer.linear) for layer in switch_layers(model)}
    blocks = model.get_submodule(architecture_of(model.config).blocks)
    plain = [m for m in blocks.modules() if isinstance(m, nn.Linear | Conv1D) and id(m) not in quantised]
    assert plain == []
    assert not isinstance(model.get_output_embeddings(), QuantLinear)
    assert not isinstance(model.get_input_embeddings(), QuantEmbedding)


def test_entries_are_in_the_order_of_the_forward_pass(tiny: BuildModel, architecture: str, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny(architecture), adapters=False)
    order = execution_order(model, tokens_BT)
    assert sorted(order) == sorted(get_switch(model).names)
    blocks = [int(part) for name in order for part in name.split(".") if part.isdigit()]
    assert blocks == sorted(blocks)


def test_weights_are_out_by_in(tiny: BuildModel, architecture: str) -> None:
    plain = dict(tiny(architecture).named_modules())
    for layer in switch_layers(make_switchable(tiny(architecture), adapters=False)):
        original = plain[layer.name]
        assert isinstance(layer.linear, QuantLinear)
        assert layer.linear.weight.shape == (layer.linear.out_features, layer.linear.in_features)
        expected_OI = original.weight.T if isinstance(original, Conv1D) else original.weight
        assert torch.equal(layer.linear.weight, expected_OI)
        assert layer.linear.weight.shape[0] == len(layer.linear.bias if layer.linear.bias is not None else expected_OI)


@pytest.mark.parametrize("extra", [(), ("head", "embeddings")], ids=["blocks", "extra"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embeddings_and_head(
    tiny: BuildModel, architecture: str, tied: bool, extra: tuple[Any, ...], tokens_BT: Tensor
) -> None:
    plain = tiny(architecture, tie_word_embeddings=tied)
    assert (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight) == tied
    model = make_switchable(copy.deepcopy(plain), extra=extra, adapters=False)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert (head.weight is embedding.weight) == tied
    names = get_switch(model).names
    blocks = [name for name in names if any(part.isdigit() for part in name.split("."))]
    assert len(names) - len(blocks) == (0 if not extra else 1 if tied else 2)
    assert torch.equal(logits(model, tokens_BT), logits(plain, tokens_BT))

    set_bitmap(model, 3)
    round_in_place(plain, Symmetric(), [3] * len(blocks))
    for module in {id(m.weight): m for m in (plain.get_output_embeddings(), plain.get_input_embeddings())}.values():
        if extra:
            grid = Symmetric()
            module.weight.data.copy_(grid.fake_quantize(module.weight.data, grid.fit(module.weight.data, 3), 3))
    torch.testing.assert_close(logits(model, tokens_BT), logits(plain, tokens_BT), rtol=0, atol=2e-6)


@pytest.mark.parametrize("extra", ["head", "embeddings"])
def test_one_of_an_untied_pair(tiny_llama: BuildModel, extra: Any, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_llama(tie_word_embeddings=False), extra=(extra,), adapters=False)
    assert isinstance(model.get_output_embeddings(), QuantLinear) == (extra == "head")
    assert isinstance(model.get_input_embeddings(), QuantEmbedding) == (extra == "embeddings")
    assert len(switch_layers(model)) == 15


@pytest.mark.parametrize("extra", ["head", "embeddings"])
def test_half_of_a_tied_pair_is_refused(tiny_gpt2: BuildModel, extra: Any) -> None:
    with pytest.raises(UserError, match="one tensor: quantise both"):
        make_switchable(tiny_gpt2(), extra=(extra,))


def test_an_unknown_extra_is_refused(tiny_gpt2: BuildModel) -> None:
    with pytest.raises(UserError, match=r"'norms'.*head, embeddings"):
        make_switchable(tiny_gpt2(), extra=("norms",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bits", "message"),
    [((), "each width once"), ((8, 8), "each width once"), ((9,), "no bit-width 9"), ((8, 1), "no bit-width 1")],
    ids=str,
)
def test_impossible_widths(tiny_gpt2: BuildModel, bits: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_switchable(tiny_gpt2(), bits=bits)


@pytest.mark.parametrize("bits", [(b,) for b in range(2, 9)] + [(7, 5, 3), (16, 6)], ids=str)
def test_any_subset_of_widths(tiny_gpt2: BuildModel, bits: tuple[int, ...], tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_gpt2(), bits=bits)
    for layer in switch_layers(model):
        assert all(layer.linear.is_prepared(width) for width in bits)
        assert not any(layer.linear.is_prepared(width) for width in range(2, 9) if width not in bits)
    for width in bits:
        set_bitmap(model, width)
        assert logits(model, tokens_BT).isfinite().all()


def test_a_group_size_that_does_not_fit_leaves_the_model_as_it_was(tiny_gpt2: BuildModel, tokens_BT: Tensor) -> None:
    model = tiny_gpt2()
    expected = logits(model, tokens_BT)
    with pytest.raises(UserError, match="group size 64 does not divide a row of 32"):
        make_switchable(model, grid=Symmetric(64))
    assert torch.equal(logits(model, tokens_BT), expected)
    assert isinstance(model.transformer.h[0].attn.c_attn, Conv1D)


def test_twice_is_refused(tiny_gpt2: BuildModel) -> None:
    model = make_switchable(tiny_gpt2())
    with pytest.raises(UserError):
        make_switchable(model)


def test_an_unsupported_architecture(tiny_gpt2: BuildModel) -> None:
    model = tiny_gpt2()
    model.config.model_type = "bloom"
    with pytest.raises(UserError, match=r"'bloom' is not supported; supported are gpt2, llama"):
        make_switchable(model)


def test_generation_with_a_cache_agrees_with_the_full_pass(tiny: BuildModel, architecture: str) -> None:
    model = make_switchable(tiny(architecture))
    set_bitmap(model, "4/2")
    prompt_BT = torch.tensor([[5, 9, 23, 41]])
    with torch.no_grad():
        cached_BT = model.generate(
            prompt_BT, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=True
        )
        for _ in range(6):
            prompt_BT = torch.cat([prompt_BT, logits(model, prompt_BT)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached_BT, prompt_BT)
