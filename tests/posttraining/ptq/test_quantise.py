"""The engine: what each block sees, what is left in the model, and what the record counts."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from switchq.data.batches import TrainingCollator
from switchq.data.text import window_example
from switchq.errors import UserError
from switchq.models import weight_view
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, load_methods, quantise
from switchq.posttraining.ptq.activations import PerToken
from switchq.posttraining.ptq.basis import Scale
from switchq.posttraining.ptq.rounder import Rounded
from switchq.posttraining.ptq.rounders.gptq import Gptq
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.site import Linear
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Asymmetric

from .conftest import SMALL, RowSpy, SequentialSpy, Spy, linears_of, logits, method

METHODS = load_methods()


def mean_inputs(model: PreTrainedModel, batches: list[Batch]) -> list[Tensor]:
    """The mean input of each linear at the real tokens, before any rounding of it, from whole forwards."""
    found: dict[str, list[Tensor]] = {name: [] for name in linears_of(model)}
    for batch in batches:
        hooks = [
            module.register_forward_pre_hook(
                lambda module, arguments, name=name, batch=batch: found[name].append(
                    arguments[0].flatten(0, -2)[batch.real_N]
                ),
                prepend=True,
            )
            for name, module in linears_of(model).items()
        ]
        with torch.no_grad():
            model(**batch.inputs)
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts).mean(0) for parts in found.values()]


@pytest.mark.parametrize(
    ("rounder", "setting", "float_from"),
    [
        pytest.param(Spy(), SMALL, lambda block, linear: (block, 0), id="block by block"),
        pytest.param(SequentialSpy(), SMALL, lambda block, linear: (block, linear), id="site by site"),
        pytest.param(Spy(), Setting(3, 16, one_shot=True), lambda block, linear: (0, 0), id="one shot"),
        pytest.param(SequentialSpy(), Setting(3, 16, one_shot=True), lambda block, linear: (0, 0), id="one shot, too"),
        pytest.param(
            Spy(), Setting(3, 16, blocks_at_once=2), lambda block, linear: (block // 2 * 2, 0), id="two at once"
        ),
    ],
)
@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_what_each_linear_sees(
    architecture: str, rounder: Spy, setting: Setting, float_from: Callable[[int, int], tuple[int, int]],
    tiny: Callable[..., PreTrainedModel], batches: list[Batch], spied: list[Statistics],
) -> None:  # fmt: skip
    """The linears from `float_from(block, linear)` on are float, all before it rounded."""
    depth = {"n_layer": 3} if architecture == "gpt2" else {"num_hidden_layers": 3}
    model = tiny(architecture, **depth)
    whole = copy.deepcopy(model)
    quantise(model, method(rounder), setting, batches, progress=False)
    names, width = list(linears_of(model)), len(linears_of(model)) // 3
    sites = [0, 0, 0, 3, 4, 5] if architecture == "opt" else [0, 1, 2, 3]  # query, key, value have one input
    for index, seen in enumerate(spied):
        block, linear = float_from(index // width, sites[index % width])
        mixed = copy.deepcopy(whole)
        for name in names[: block * width + linear]:
            weight_view(mixed.get_submodule(name)).copy_(weight_view(model.get_submodule(name)))
        torch.testing.assert_close(seen["mean"], mean_inputs(mixed, batches)[index], rtol=1e-4, atol=1e-5)
    assert len(spied) == 3 * width


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_every_method_on_every_kind_of_model(
    name: str, architecture: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch], tmp_path: Path
) -> None:
    model, codes = tiny(architecture), {}
    before = logits(model, batches)

    def on_layer(linear: Linear, rounded: Rounded) -> None:
        codes[linear.name] = rounded

    record = quantise(model, METHODS[name], SMALL, batches, on_layer=on_layer, progress=False)
    assert list(codes) == [layer.name for layer in record.layers] == list(linears_of(model))
    for layer in record.layers:
        assert layer.levels <= 2**layer.bits
        assert layer.error is not None
        assert layer.error < 0.6
    after = logits(model, batches)
    assert 0 < (after - before).square().mean() < before.var()
    assert record.effective_bits >= 3 + 16 / 16
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    if METHODS[name].activations is None:
        torch.testing.assert_close(logits(again, batches), after)
    record.write(tmp_path / "record.json")
    content = json.loads((tmp_path / "record.json").read_text())
    assert content["setting"]["group_size"] == 16
    assert content["method"]["rounder"]["class_path"].startswith("rounders.")
    assert (content["reload"] == "nothing") == (METHODS[name].activations is None)


@pytest.mark.parametrize("name", ["awq", "awq-sh", "gptq", "hqq"])
def test_the_same_twice(name: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    found = []
    for _ in range(2):
        model = tiny("gpt2")
        quantise(model, METHODS[name], SMALL, batches, progress=False)
        found.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)


def test_only_block_linears_change(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    quantise(model, METHODS["gptq"], Setting(3, 16, skip=("q_proj",)), batches, progress=False)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {f"{name}.weight" for name in linears_of(model) if "q_proj" not in name}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_leaves_no_hooks_and_no_flags(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("gpt2").train()
    quantise(model, METHODS["gptq"], SMALL, batches, progress=False)
    assert model.training
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_sizes_by_hand(tiny: Callable[..., PreTrainedModel]) -> None:
    """GPT-2 of width 32: 12 * 32^2 weights a block in codes of 3 bits, groups of 16 with 16 + 3 bits."""
    model = tiny("gpt2")
    total = sum(parameter.numel() for parameter in model.parameters())
    record = quantise(model, METHODS["rtn"], Setting(3, 16, skip=("c_attn",)), progress=False)
    weights, skipped = 2 * 9 * 32**2, 2 * 3 * 32**2
    stored = weights * (3 + 19 / 16)
    assert record.bytes_before == 2 * total
    assert record.bytes_after == pytest.approx(2 * (total - weights) + stored / 8)
    assert record.effective_bits == pytest.approx((stored + 16 * skipped) / (weights + skipped))
    assert record.skipped == ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn")
    assert record.mean_error is None
    assert [layer.error for layer in record.layers] == [None] * 6


def test_explicit_scales_are_counted(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    record = quantise(tiny("gpt2"), METHODS["awq-protect"], SMALL, batches, progress=False)
    plain = {layer.name: Asymmetric(16).overhead_bits(layer.shape, 3) for layer in record.layers}
    extra = {layer.name.split(".", 3)[3]: layer.overhead_bits - plain[layer.name] for layer in record.layers}
    assert extra == {"attn.c_attn": 0, "attn.c_proj": 0, "mlp.c_fc": 0, "mlp.c_proj": 16 * 128}


def test_the_error_is_the_output_error(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("gpt2")
    first = next(iter(linears_of(model)))
    weight_OI = weight_view(model.get_submodule(first)).clone()
    kept: list[Tensor] = []
    hook = model.get_submodule(first).register_forward_hook(lambda m, arguments, output: kept.append(arguments[0]))
    logits(model, batches)
    hook.remove()
    x_NI = torch.cat([x.flatten(0, 1)[batch.real_N] for x, batch in zip(kept, batches)])
    record = quantise(model, METHODS["rtn"], SMALL, batches, progress=False)
    error_OI = weight_OI - weight_view(model.get_submodule(first))
    expected = (x_NI @ error_OI.T).square().sum() / (x_NI @ weight_OI.T).square().sum()
    assert record.layers[0].error == pytest.approx(float(expected), rel=1e-4)


def test_rounded_activations(tiny: Callable[..., PreTrainedModel], batches: list[Batch], tmp_path: Path) -> None:
    """The model runs on rounded inputs, a plain reload on unrounded ones, and the record says so."""
    coarse, model, plain = tiny("llama"), tiny("llama"), tiny("llama")
    record = quantise(model, method(Nearest(), activations=PerToken(8)), SMALL, batches, progress=False)
    quantise(coarse, method(Nearest(), activations=PerToken(3)), SMALL, batches, progress=False)
    quantise(plain, method(Nearest()), SMALL, batches, progress=False)
    fine_error, coarse_error = (
        float((logits(one, batches) - logits(plain, batches)).square().mean()) for one in (model, coarse)
    )
    assert 0 < fine_error < 0.05 * coarse_error
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, batches), logits(plain, batches))
    assert record.reload == "the rounding of activations"


def test_activations_are_rounded_where_the_weight_was() -> None:
    """In scaled coordinates a large channel no longer takes the range from all others."""
    from switchq.posttraining.ptq.activations import install

    linear, x_NI = torch.nn.Linear(8, 4), torch.randn(50, 8)
    x_NI[:, 0] *= 100
    scale = Scale(torch.tensor([100.0] + [1.0] * 7))
    exact, errors = linear(x_NI), []
    for bases in ([], [scale]):
        other = copy.deepcopy(linear)
        install(other, PerToken(8).fit(Statistics({})), bases)
        errors.append(float((other(x_NI) - exact).detach().square().mean()))
    assert errors[1] < 0.1 * errors[0]
    rounded_NI = PerToken(3).fit(Statistics({}))(x_NI)
    assert max(len(row.unique()) for row in rounded_NI) <= 7
    assert torch.equal(PerToken().fit(Statistics({}))(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_needs_calibration(tiny: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match="gptq needs calibration text"):
        quantise(tiny("gpt2"), METHODS["gptq"], SMALL, progress=False)


def test_calibration_batches_longer_than_the_model_reads(tiny: Callable[..., PreTrainedModel]) -> None:
    model = tiny("gpt2")
    before = [parameter.clone() for parameter in model.parameters()]
    long = Batch.of(TrainingCollator(pad_id=5)([window_example([7] * 65)]))
    with pytest.raises(UserError, match="reads 64 tokens and a calibration batch has 65: use shorter samples"):
        quantise(model, METHODS["gptq"], SMALL, [long], progress=False)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters()))


def test_a_group_size_that_fits_no_row(tiny: Callable[..., PreTrainedModel]) -> None:
    model = tiny("gpt2")
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError, match="group size 24 does not divide a row of 32"):
        quantise(model, METHODS["rtn"], Setting(4, 24), progress=False)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters()))


def test_weights_and_inputs_that_are_not_finite(tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    model = tiny("gpt2")
    weight_view(model.transformer.h[1].mlp.c_fc)[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"weight of transformer\.h\.1\.mlp\.c_fc"):
        quantise(model, METHODS["rtn"], SMALL, progress=False)
    model = tiny("gpt2")
    model.transformer.h[1].ln_2.weight.data[0] = torch.inf
    with pytest.raises(UserError, match=r"inputs of transformer\.h\.1\.mlp\.c_fc are not finite"):
        quantise(model, METHODS["gptq"], SMALL, batches, progress=False)


def test_linears_that_read_one_input_are_rounded_together(
    tiny: Callable[..., PreTrainedModel], batches: list[Batch], spied: list[Statistics]
) -> None:
    made = []
    for rounder, calls in ((Spy(), 7), (RowSpy(), 4)):  # q, k, v, o, gate, up and down have four different inputs
        model = tiny("llama")
        record = quantise(model, method(rounder), SMALL, batches, progress=False)
        assert len(spied) == calls * model.config.num_hidden_layers
        made.append((model.state_dict(), record.layers))
        spied.clear()
    torch.testing.assert_close(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_on_a_gpu(name: str, home: str, tiny: Callable[..., PreTrainedModel], batches: list[Batch]) -> None:
    """Block after block on the GPU, or the whole model there: close to the CPU's result, and back where it was."""
    model, reference = tiny("llama").to(home), tiny("llama")
    record = quantise(model, METHODS[name], SMALL, batches, device=torch.device("cuda"), progress=False)
    expected = quantise(reference, METHODS[name], SMALL, batches, progress=False)
    assert {parameter.device.type for parameter in model.parameters()} == {home}
    assert record.peak_memory_of == "cuda"
    assert record.mean_error == pytest.approx(expected.mean_error, rel=0.1)


def test_what_is_rounded_later_sees_rounded_activations(
    tiny: Callable[..., PreTrainedModel], batches: list[Batch], spied: list[Statistics]
) -> None:
    """A site's batches wait in front of it, and go through it with the rounding of inputs that it got meanwhile."""
    model = tiny("gpt2", n_layer=2)
    quantise(model, method(SequentialSpy(), activations=PerToken(4)), Setting(3, 16), batches, progress=False)
    for seen, expected_I in zip(spied, mean_inputs(model, batches), strict=True):
        torch.testing.assert_close(seen["mean"], expected_I, rtol=1e-4, atol=1e-5)


def test_gptq_takes_each_site_after_the_ones_before() -> None:
    assert Gptq.sequential
    assert not Nearest.sequential
