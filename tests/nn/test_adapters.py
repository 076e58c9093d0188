from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import make_switchable
from switchq.nn import QuantLinear, set_bitmap, switch_layers
from switchq.nn.starts import Metric, start_at_residual

BuildModel = Callable[..., PreTrainedModel]

TARGETS = {
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

RANKS = {8: 2, 4: 3, 2: 4}


def lora_layers(model: nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def parts(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) of an adapter."""
    return layer.lora_A[name].weight, layer.lora_B[name].weight


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("bits", [8, 2])
def test_agrees_with_plain_peft(tiny: BuildModel, architecture: str, tokens_BT: Tensor, bits: int) -> None:
    """The same LoRA on the plain model gives the same logits: at full precision, and on the rounded base."""
    model = make_switchable(tiny(architecture), rank=RANKS, alpha={8: 3})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    config = LoraConfig(
        r=RANKS[bits],
        lora_alpha=3 if bits == 8 else 2 * RANKS[bits],
        target_modules=TARGETS.get(architecture, LLAMA_TARGETS),
        fan_in_fan_out=architecture == "gpt2",
        task_type="CAUSAL_LM",
    )
    plain = get_peft_model(tiny(architecture), config).eval()
    pairs = list(zip(lora_layers(model), lora_layers(plain), strict=True))
    for ours, theirs in pairs:
        for source, target in zip(parts(ours, f"bits_{bits}"), parts(theirs, "default")):
            target.data.copy_(source)

    with torch.no_grad():
        if bits == 8:  # 16 bits runs the widest adapter
            set_bitmap(model, 16)
            torch.testing.assert_close(model(tokens_BT).logits, plain(tokens_BT).logits)
        for ours, theirs in pairs:
            rounded_OI = ours.get_base_layer().round_weight(bits)
            theirs.get_base_layer().weight.data = rounded_OI.T if architecture == "gpt2" else rounded_OI
        set_bitmap(model, bits)
        torch.testing.assert_close(model(tokens_BT).logits, plain(tokens_BT).logits)


def test_default_ranks_and_alphas(tiny_llama: BuildModel) -> None:
    for layer in lora_layers(make_switchable(tiny_llama())):
        assert layer.r == {"bits_8": 16, "bits_4": 32, "bits_2": 64}
        assert layer.lora_alpha == {"bits_8": 32, "bits_4": 64, "bits_2": 128}
        assert layer.scaling == {"bits_8": 2.0, "bits_4": 2.0, "bits_2": 2.0}


def test_ranks_alphas_and_dropout(tiny_gpt2: BuildModel) -> None:
    model = make_switchable(tiny_gpt2(), bits=(6, 3), rank={6: 5}, alpha={3: 7}, dropout=0.25)
    layer = lora_layers(model)[0]
    assert layer.r == {"bits_6": 5, "bits_3": 32}
    assert layer.lora_alpha == {"bits_6": 10, "bits_3": 7}
    assert {dropout.p for dropout in layer.lora_dropout.values()} == {0.25}


@pytest.mark.parametrize("rank", [0, -4])
def test_an_impossible_rank(tiny_gpt2: BuildModel, rank: int) -> None:
    with pytest.raises(UserError, match=f"rank of the 4-bit adapter is {rank}"):
        make_switchable(tiny_gpt2(), rank={4: rank})


@pytest.mark.parametrize("alpha", [0, -1])
def test_an_impossible_alpha(tiny_gpt2: BuildModel, alpha: int) -> None:
    with pytest.raises(UserError, match=f"alpha of the 4-bit adapter is {alpha}"):
        make_switchable(tiny_gpt2(), alpha={4: alpha})


def test_only_adapters_are_trainable(tiny_gpt2: BuildModel) -> None:
    model = make_switchable(tiny_gpt2())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(trainable) == 8 * 3 * 2


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "no adapters"])
def test_train_base_adds_the_block_linears(tiny_gpt2: BuildModel, adapters: bool, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_gpt2(), train_base=True, adapters=adapters)
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    weights = {id(layer.linear.weight) for layer in switch_layers(model)}
    assert weights <= trainable
    assert len(trainable) == 8 + (8 * 3 * 2 if adapters else 0)
    set_bitmap(model, 2)
    model(tokens_BT).logits.square().sum().backward()
    assert all(layer.linear.weight.grad is not None for layer in switch_layers(model))


def test_adapters_of_a_half_precision_base_are_float32(tiny_llama: BuildModel, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny_llama().to(torch.bfloat16))
    dtypes = {"lora_" in name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert model(tokens_BT).logits.dtype == torch.bfloat16


def test_a_zero_start_changes_nothing(tiny: BuildModel, architecture: str, tokens_BT: Tensor) -> None:
    model = make_switchable(tiny(architecture))
    with torch.no_grad():
        for bitmap in ("16", "8/4", "2"):
            set_bitmap(model, bitmap)
            with_adapters = model(tokens_BT).logits
            set_bitmap(model, bitmap, adapters=False)
            assert torch.equal(model(tokens_BT).logits, with_adapters)


def residuals(layer: Any, bits: int) -> tuple[Tensor, Tensor]:
    """W - Q(W), and what is left of it once the adapter is added."""
    base: QuantLinear = layer.get_base_layer()
    lora_a_RI, lora_b_OR = parts(layer, f"bits_{bits}")
    residual_OI = base.weight - base.round_weight(bits)
    return residual_OI, residual_OI - layer.scaling[f"bits_{bits}"] * lora_b_OR @ lora_a_RI


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_loftq_starts_at_the_truncated_svd(tiny: BuildModel, architecture: str, bits: int) -> None:
    """Compared by what is left over: where singular values lie close, the subspace itself is not unique."""
    rank = {8: 4, 4: 8, 2: 12}
    with torch.no_grad():
        for layer in lora_layers(make_switchable(tiny(architecture), rank=rank, start="loftq")):
            residual_OI, left_OI = residuals(layer, bits)
            singular = torch.linalg.svdvals(residual_OI)
            assert left_OI.norm() < residual_OI.norm()
            torch.testing.assert_close(left_OI.norm(), singular[rank[bits] :].norm(), rtol=0.01, atol=0)
            lora_a_RI, lora_b_OR = parts(layer, f"bits_{bits}")
            torch.testing.assert_close(lora_a_RI.norm(dim=1), lora_b_OR.norm(dim=0), rtol=1e-3, atol=0)


def test_loftq_product_equals_the_truncated_svd(tiny_gpt2: BuildModel) -> None:
    """With a gap in the spectrum the best approximation is unique, and is met exactly."""
    model = tiny_gpt2()
    conv = model.transformer.h[0].mlp.c_fc
    conv.weight.data = 0.05 * torch.randn(32, 128).sign() * (1 + torch.rand(32, 1))
    layer: Any = lora_layers(make_switchable(model, bits=(2,), rank={2: 6}, alpha={2: 3}, start="loftq"))[2]
    with torch.no_grad():
        residual_OI, left_OI = residuals(layer, 2)
        u_OR, s_R, vh_RI = torch.linalg.svd(residual_OI, full_matrices=False)
        best_OI = (u_OR[:, :6] * s_R[:6]) @ vh_RI[:6]
    assert layer.scaling["bits_2"] == 0.5
    torch.testing.assert_close(residual_OI - left_OI, best_OI, rtol=0, atol=0.02 * float(s_R[0]))


def test_loftq_with_ranks_beyond_the_weight(tiny_gpt2: BuildModel, tokens_BT: Tensor) -> None:
    """Default ranks on a narrower model: the whole residual is taken up, and the spare ranks can still learn."""
    model = make_switchable(tiny_gpt2(), start="loftq")
    layer = lora_layers(model)[0]
    with torch.no_grad():
        residual_OI, left_OI = residuals(layer, 2)
        assert left_OI.norm() < 1e-5 * residual_OI.norm()
    set_bitmap(model, 2)
    model(tokens_BT).logits.square().sum().backward()
    spare_b_OR = parts(layer, "bits_2")[1].grad[:, 32:]
    assert (spare_b_OR != 0).any(dim=0).all()


def test_loftq_brings_the_logits_closer(tiny: BuildModel, architecture: str, tokens_BT: Tensor) -> None:
    original = tiny(architecture)(tokens_BT).logits
    model = make_switchable(tiny(architecture), start="loftq", rank={8: 16, 4: 16, 2: 24})
    with torch.no_grad():
        for bits in (4, 2):
            errors = []
            for adapters in (True, False):
                set_bitmap(model, bits, adapters)
                errors.append(float((model(tokens_BT).logits - original).norm()))
            assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("rank", [2, 5])
def test_qera_is_the_best_start_for_the_outputs(tiny_gpt2: BuildModel, rank: int) -> None:
    """Against the closed form by way of a Cholesky factor instead of the square root, and against LoftQ's start."""
    model = make_switchable(tiny_gpt2(), bits=(2,), rank={2: rank}, alpha={2: 3 * rank})
    layer: Any = lora_layers(model)[2]
    mixing_II = torch.randn(32, 32) * torch.logspace(0, -2, 32)
    inputs_NI = torch.randn(500, 32) @ mixing_II
    gram_II = inputs_NI.T @ inputs_NI / 500

    def output_error() -> float:
        with torch.no_grad():
            return float((inputs_NI @ residuals(layer, 2)[1].T).square().sum(1).mean())

    start_at_residual(layer, "bits_2")
    loftq = output_error()
    start_at_residual(layer, "bits_2", Metric.of(gram_II, damping=1e-6))
    qera = output_error()
    factor_II = torch.linalg.cholesky(gram_II.double())
    with torch.no_grad():
        singular = torch.linalg.svdvals(residuals(layer, 2)[0].double() @ factor_II)
    assert qera == pytest.approx(float(singular[rank:].square().sum()), rel=0.02)
    assert qera < 0.8 * loftq


def test_a_metric_stands_dead_inputs() -> None:
    metric = Metric.of(torch.zeros(4, 4))
    assert metric.root_II.isfinite().all()
    assert metric.inverse_II.isfinite().all()
    half = Metric.of(torch.diag(torch.tensor([4.0, 0.0])), damping=0.5)
    torch.testing.assert_close(half.root_II, torch.diag(torch.tensor([5.0, 1.0]).sqrt()))
    torch.testing.assert_close(half.root_II @ half.inverse_II, torch.eye(2))
