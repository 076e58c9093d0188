"""Rotations against matrices written out, and rotated models against the ones they were made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from switchq.errors import UserError
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, load_methods, quantise
from switchq.posttraining.ptq.rotation import Rotation, paley
from switchq.posttraining.ptq.transforms.quarot import QuaRot

from .conftest import SMALL, Float, inputs_of, linears_of, logits, method, statistics_of, weight_of

SIZES = [1, 2, 3, 8, 9, 12, 40, 48, 64, 192, 384, 576, 640, 896]


def matrix(rotation: Rotation) -> Tensor:
    """M, row by row."""
    return rotation.x(torch.eye(len(rotation.sign_I), dtype=torch.float64))


@pytest.mark.parametrize("keeps_mean", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_rotation_is_orthogonal_and_spreads(size: int, keeps_mean: bool) -> None:
    rotation = Rotation.of(size, seed=1, keeps_mean=keeps_mean)
    m_II = matrix(rotation)
    torch.testing.assert_close(m_II @ m_II.T, torch.eye(size, dtype=torch.float64))
    x_NI = torch.randn(5, 2, size)
    torch.testing.assert_close(rotation.x(x_NI), x_NI @ m_II.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotation.x_back(x_NI), x_NI @ m_II.T.float(), rtol=1e-4, atol=1e-5)
    if keeps_mean:
        torch.testing.assert_close(m_II.sum(0), torch.ones(size, dtype=torch.float64))
        torch.testing.assert_close(rotation.x(x_NI).mean(-1), x_NI.mean(-1), rtol=1e-4, atol=1e-5)
    if size >= 40:
        assert m_II.pow(4).mean() * size**2 < (1.3 if keeps_mean else 1 + 1e-9), "all entries are about 1 / sqrt(I)"


@pytest.mark.parametrize("size", [8, 48, 72])
def test_it_is_signs_and_a_kronecker_product(size: int) -> None:
    rotation = Rotation.of(size, seed=2)
    power = size // len(rotation.small_FF)
    small_FF = rotation.small_FF
    expected_II = rotation.sign_I[:, None] * torch.kron(torch.tensor(hadamard(power)) / power**0.5, small_FF)
    torch.testing.assert_close(matrix(rotation), expected_II)
    assert set(rotation.sign_I.tolist()) == {-1, 1}
    assert not torch.equal(Rotation.of(size, seed=3).sign_I, rotation.sign_I)


@pytest.mark.parametrize("order", range(3, 70))
def test_paley(order: int) -> None:
    found = paley(order)
    assert (found is not None) == (order in {4, 8, 12, 20, 24, 28, 32, 36, 44, 48, 60, 68})
    if found is not None:
        assert set(found.flatten().tolist()) == {-1, 1}
        assert torch.equal(found @ found.T, order * torch.eye(order, dtype=torch.float64))


def test_statistics_of_rotated_inputs() -> None:
    rotation, x_NI = Rotation.of(24), inputs_of(24)
    expected, found = statistics_of(rotation.x(x_NI)), rotation.statistics(statistics_of(x_NI))
    assert set(found.values) == set(expected.values)
    for name, value in expected.values.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_the_stored_weight_is_the_rotated_one_turned_back() -> None:
    rotation, weight_OI, x_NI = Rotation.of(24), weight_of(6, 24), inputs_of(24)
    torch.testing.assert_close(rotation.back(rotation.into(weight_OI)), weight_OI, rtol=1e-4, atol=1e-5)
    product_NO = rotation.x(x_NI) @ rotation.into(weight_OI).T
    torch.testing.assert_close(product_NO, x_NI @ weight_OI.T, rtol=1e-3, atol=1e-3)


WIDE = {"hidden_size": 48, "head_dim": 12}

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"n_embd": 48}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("opt", {}),
    ("opt", {"word_embed_proj_dim": 32}),
    ("opt", {"hidden_size": 40, "word_embed_proj_dim": 40}),
    ("opt", {"enable_bias": False}),
    ("opt", {"layer_norm_elementwise_affine": False}),
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", WIDE | {"intermediate_size": 72, "attention_bias": True, "mlp_bias": True}),
    ("mistral", WIDE),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"hidden_size": 40}),
]


def uneven(tiny: Callable[..., PreTrainedModel], architecture: str, config: dict[str, Any]) -> PreTrainedModel:
    """A model whose norms differ from channel to channel, one channel being loud."""
    model = tiny(architecture, **config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("norm" in name or ".ln_" in name) and name.endswith("weight"):
                parameter.copy_(0.5 + torch.rand(parameter.shape))
        model.get_input_embeddings().weight[:, 3] *= 10
    return model


@pytest.mark.parametrize(("architecture", "config"), MODELS, ids=str)
def test_a_rotated_model_gives_the_same_logits(
    architecture: str, config: dict[str, Any], tiny: Callable[..., PreTrainedModel], batches: list[Batch],
    tmp_path: Path,
) -> None:  # fmt: skip
    model = uneven(tiny, architecture, config)
    before, table = logits(model, batches), model.get_input_embeddings().weight.clone()
    QuaRot().prepare(model)
    after = logits(model, batches)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    if architecture != "opt" or "word_embed_proj_dim" in config:
        assert (model.get_input_embeddings().weight - table).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, batches), after)


@pytest.mark.parametrize(("architecture", "config"), MODELS, ids=str)
def test_with_online_rotations_too(
    architecture: str, config: dict[str, Any], tiny: Callable[..., PreTrainedModel], batches: list[Batch]
) -> None:
    model = uneven(tiny, architecture, config)
    before = logits(model, batches)
    setting = Setting(4, 8)
    record = quantise(model, method(Float(), QuaRot()), setting, batches, progress=False)
    torch.testing.assert_close(logits(model, batches), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    online = {layer.name for layer in record.layers if "rotated_online" in layer.notes}
    ends = ("attn.c_proj", "mlp.c_proj", "out_proj", "fc2", "o_proj", "down_proj")
    assert online == {layer.name for layer in record.layers if layer.name.endswith(ends)}


def test_the_loud_channel_is_gone(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    """Every linear's input has a smaller ratio of its largest channel to its mean one, or about the same."""
    for architecture in ("llama", "gpt2"):
        model = uneven(tiny, architecture, {})
        table_VI = model.get_input_embeddings().weight.detach().clone()
        QuaRot().prepare(model)
        rotated_VI = model.get_input_embeddings().weight.detach()
        loud, even = (value_VI.square().mean(0) for value_VI in (table_VI, rotated_VI))
        assert loud.max() / loud.mean() > 20
        assert even.max() / even.mean() < 6


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_four_bit_inputs_need_it(architecture: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    exact = logits(uneven(tiny, architecture, {}), batches)
    own = load_methods()["quarot-a4"]

    def error(*steps: QuaRot) -> float:
        model = uneven(tiny, architecture, {})
        quantise(
            model, method(own.rounder, *steps, activations=own.activations), Setting(4, 16), batches, progress=False
        )
        return float((logits(model, batches) - exact).square().mean())

    assert error(QuaRot()) < error()


def test_the_seed_draws_the_rotation(tiny: Callable[..., PreTrainedModel]) -> None:
    tables = []
    for seed in (0, 0, 1):
        model = tiny("llama")
        QuaRot().prepare(model, seed)
        tables.append(model.get_input_embeddings().weight.detach())
    assert tables[0].equal(tables[1])
    assert (tables[0] - tables[2]).abs().max() > 0.01


def test_the_untied_head_is_counted(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("gpt2")
    total = sum(parameter.numel() for parameter in model.parameters())
    record = quantise(model, load_methods()["quarot"], SMALL, batches, progress=False)
    plain = quantise(tiny("gpt2"), load_methods()["rtn"], SMALL, batches, progress=False)
    signs = 2 * (32 + 128) / 8
    assert record.bytes_before == plain.bytes_before == 2 * total
    assert record.bytes_after == pytest.approx(plain.bytes_after + 2 * 97 * 32 + signs)
    assert not model.config.tie_word_embeddings
    assert list(linears_of(model)) == [layer.name for layer in record.layers]


def test_mistakes(tiny: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match="blocks end in norms"):
        QuaRot().prepare(tiny("opt", do_layer_norm_before=False))
    model = tiny("gpt2")
    before = model.transformer.wte.weight.clone()
    model.transformer.ln_f.weight.data[5] = 0
    with pytest.raises(UserError, match="gain is 0"):
        QuaRot().prepare(model)
    assert torch.equal(model.transformer.wte.weight, before)
