"""The shared adapter that starts at what rounding does worst, and weights that are rounded without it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from workshop import Workshop, padded

from switchq.errors import UserError
from switchq.models import make_switchable
from switchq.nn import set_bitmap, switch_layers
from switchq.nn.starts import Metric, take_out
from switchq.quant import Asymmetric, Grid, Nested, Symmetric
from switchq.training.calibrated_start import start_from_inputs
from switchq.training.callbacks import Cyclic
from switchq.training.module import SwitchableModule

from .shared_start import inputs_of, kept, logits, product, weights


class TestStart:
    @pytest.mark.parametrize(
        "grid", [Nested(8), Asymmetric(8, "mse"), Symmetric()], ids=lambda grid: type(grid).__name__
    )
    def test_what_is_left_is_rounded(self, tiny: Any, architecture: str, tokens_BT: Tensor, grid: Grid) -> None:
        """W - L is rounded at every width, L is what both the shared adapter and the other one hold, and without
        adapters the model is the original."""
        model = make_switchable(tiny(architecture), (8, 2), grid, rank={8: 2, 2: 3}, shared_rank=2, shared_start="qera")
        before, original = weights(model), tiny(architecture)(tokens_BT).logits
        assert start_from_inputs(model, [padded(tokens_BT, 3)]) == ["shared", "bits_8", "bits_2"]
        for layer in switch_layers(model):
            low_OI = product(layer, 2, adapters=False)
            assert torch.linalg.matrix_rank(low_OI.double(), rtol=1e-5) == 2
            a_RI, b_OR = (part["taken"].weight.double() for part in (layer.lora.lora_A, layer.lora.lora_B))  # type: ignore[union-attr]
            exact_OI = (layer.lora.scaling["taken"] * b_OR @ a_RI).float()  # type: ignore[union-attr]
            assert torch.equal(layer.linear.weight, before[layer.name] - exact_OI)
            torch.testing.assert_close(exact_OI, low_OI)
            for part in (layer.lora.lora_A, layer.lora.lora_B):  # type: ignore[union-attr]
                assert torch.equal(part["shared"].weight, part["taken"].weight)
            for bits in (8, 2):
                left_OI = layer.linear.weight.detach()
                assert torch.equal(
                    layer.linear.rounded(bits), grid.fake_quantize(left_OI, grid.fit(left_OI, bits), bits)
                )
        torch.testing.assert_close(logits(model, "16", False, tokens_BT), original, rtol=0, atol=1e-4)

    def test_outputs_come_as_close_as_by_as_many_ranks_of_their_own(self, tiny_gpt2: Any) -> None:
        """At the narrowest width; at a wider one closer than without a start. Errors are summed over layers."""
        tokens_BT = torch.randint(0, 90, (16, 12), generator=torch.Generator().manual_seed(3))
        errors = {}
        for start, rank, shared in (("qera", 4, 4), ("zero", 4, 4), ("zero", 8, 0)):
            model = make_switchable(
                tiny_gpt2(), (4, 2), Nested(8), rank={4: rank, 2: rank}, shared_rank=shared, shared_start=start,  # type: ignore[arg-type]
            )  # fmt: skip
            before, inputs = weights(model), inputs_of(model, tokens_BT)
            start_from_inputs(model, [padded(tokens_BT, 12)])
            for bits in (4, 2):
                errors[start, rank, bits] = sum(
                    float((inputs[layer.name] @ (before[layer.name] - kept(layer, bits)).T).square().sum())
                    for layer in switch_layers(model)
                )
        assert errors["qera", 4, 2] < 1.05 * errors["zero", 8, 2] < 0.6 * errors["zero", 4, 2]
        assert errors["qera", 4, 4] < errors["zero", 4, 4]

    def test_once(self, tiny_gpt2: Any, tokens_BT: Tensor) -> None:
        model = make_switchable(tiny_gpt2(), (4, 2), Nested(8), shared_rank=2, shared_start="qera", rank={4: 2, 2: 3})
        start_from_inputs(model, [padded(tokens_BT, 3)])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert start_from_inputs(model, [padded(tokens_BT, 2)]) == []
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        with pytest.raises(RuntimeError, match="taken out before"):
            take_out(switch_layers(model)[0].lora)  # type: ignore[arg-type]

    @pytest.mark.parametrize("memory", [1, 2**30], ids=["a layer at a time", "all at once"])
    def test_inputs_are_those_of_the_original(self, tiny_gpt2: Any, tokens_BT: Tensor, memory: int) -> None:
        """Also where earlier layers have something taken out already: all read what the unrounded model gives."""
        seen: list[Tensor] = []

        def metric_of(gram_II: Tensor) -> Metric:
            seen.append(gram_II)
            return Metric.of(gram_II)

        model = make_switchable(tiny_gpt2(), (4, 2), Nested(8), shared_rank=2, shared_start="qera", rank={4: 2, 2: 3})
        inputs = inputs_of(model, tokens_BT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("switchq.training.calibrated_start.Metric", SimpleNamespace(of=metric_of))
            start_from_inputs(model, [{"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT)}], memory)
        assert len(seen) == len(inputs)
        for gram_II, x_NI in zip(seen, inputs.values(), strict=True):
            torch.testing.assert_close(gram_II, x_NI.T @ x_NI / len(x_NI), rtol=1e-3, atol=1e-4)

    def test_devices_take_out_alike(self, tiny_gpt2: Any, tokens_BT: Tensor) -> None:
        """What the first device found is what is taken out, and held."""
        model = make_switchable(tiny_gpt2(), (2,), Nested(8), shared_rank=2, shared_start="qera", rank={2: 3})
        before = weights(model)
        start_from_inputs(model, [padded(tokens_BT, 3)], alike=lambda tensor: torch.full_like(tensor, 0.1))
        for layer in switch_layers(model):
            a_RI, b_OR = (part["taken"].weight for part in (layer.lora.lora_A, layer.lora.lora_B))  # type: ignore[union-attr]
            assert (a_RI == 0.1).all()
            assert (b_OR == 0.1).all()
            low_OI = layer.lora.scaling["taken"] * b_OR @ a_RI  # type: ignore[union-attr]
            torch.testing.assert_close(layer.linear.weight, before[layer.name] - low_OI)

    def test_what_was_taken_out_is_not_trained(self, module_of: Callable[..., SwitchableModule]) -> None:
        names = {True: "shared", False: "taken"}
        for name, parameter in module_of().model.named_parameters():
            for trains, own in names.items():
                assert f".{own}." not in name or parameter.requires_grad is trains

    def test_nothing_of_a_weight_is_dropped(self, tiny_llama: Any, tokens_BT: Tensor) -> None:
        """Dropout is for what a width learns by itself."""
        model = make_switchable(
            tiny_llama(), (4, 2), Nested(8), rank={4: 0, 2: 3}, shared_rank=2, shared_start="qera", dropout=0.5
        )
        start_from_inputs(model, [padded(tokens_BT, 3)])
        for bitmap, adapters, drops in (("16", False, False), ("4", True, False), ("2", True, True)):
            set_bitmap(model, bitmap, adapters)
            with torch.no_grad():
                found = model.train()(tokens_BT).logits, model.eval()(tokens_BT).logits
            assert torch.equal(*found) is not drops

    def test_a_half_precision_base_is_rounded_once(self, tiny_gpt2: Any, tokens_BT: Tensor) -> None:
        model = make_switchable(
            tiny_gpt2().bfloat16(), (4, 2), Nested(8), shared_rank=2, shared_start="qera", rank={4: 2, 2: 3}
        )
        before = weights(model)
        start_from_inputs(model, [padded(tokens_BT, 3)])
        for layer in switch_layers(model):
            left_OI = before[layer.name].float() - product(layer, 2, adapters=False)
            torch.testing.assert_close(layer.linear.weight, left_OI.bfloat16(), rtol=2**-8, atol=1e-6)

    def test_a_model_that_is_rounded_already_runs_with_what_is_left(self, tiny_gpt2: Any, tokens_BT: Tensor) -> None:
        models = [
            make_switchable(tiny_gpt2(), (4, 2), Nested(8), shared_rank=2, shared_start="qera", rank={4: 2, 2: 3})
            for _ in range(2)
        ]
        set_bitmap(models[0], "3")
        found = []
        for model in models:
            torch.manual_seed(0)
            start_from_inputs(model, [padded(tokens_BT, 3)])
            if model is models[1]:
                set_bitmap(model, "3")
            with torch.no_grad():
                found.append(model.eval()(tokens_BT).logits)
        assert torch.equal(*found)

    def test_without_adapters_of_their_own(self, tiny_gpt2: Any, tokens_BT: Tensor) -> None:
        model = make_switchable(tiny_gpt2(), (4, 2), Nested(8), shared_rank=2, shared_start="qera", rank={4: 0, 2: 0})
        before = weights(model)
        assert start_from_inputs(model, [padded(tokens_BT, 3)]) == ["shared"]
        assert all(not torch.equal(layer.linear.weight, before[layer.name]) for layer in switch_layers(model))

    @pytest.mark.parametrize("trained", [{"train_base": True}, {"learn_scales": True}], ids=["base", "scales"])
    def test_fixed_grids_are_fitted_to_what_is_left(
        self, tiny_gpt2: Any, tokens_BT: Tensor, trained: dict[str, bool]
    ) -> None:
        grid = Asymmetric(8)
        model = make_switchable(tiny_gpt2(), (4, 2), grid, shared_rank=2, shared_start="qera", **trained)
        start_from_inputs(model, [padded(tokens_BT, 3)])
        for layer in switch_layers(model):
            for bits in (4, 2):
                weight_OI = layer.linear.weight.detach()
                expected_OI = grid.fake_quantize(weight_OI, grid.fit(weight_OI, bits), bits)
                torch.testing.assert_close(layer.linear.rounded(bits), expected_OI)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"adapter_start": "zero"}, "goes with model.adapter_start qera or apiq"),
            ({"adapter_start": "loftq"}, "goes with model.adapter_start qera or apiq"),
            ({"shared_rank": 0}, "no shared adapter to start"),
            ({"bits": (16,), "rank": {16: 2}}, "name widths below 16"),
            ({"shared_start": "zero", "shared_rank": 0, "shared_lr": 0.5}, "shared_lr is the shared adapter's"),
        ],
    )
    def test_what_cannot_be(
        self, module_of: Callable[..., SwitchableModule], options: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(UserError, match=says):
            module_of(**options)


def test_loftq_is_refused_beside_it(tiny_gpt2: Any) -> None:
    with pytest.raises(UserError, match="start from data after it"):
        make_switchable(tiny_gpt2(), (4, 2), Nested(8), shared_rank=2, shared_start="qera", start="loftq")


def test_weights_that_adapters_hold_do_not_decay(
    workshop: Workshop, module_of: Callable[..., SwitchableModule], tmp_path: Path
) -> None:
    """The rate is zero for all but decay: what decays shrinks by lr x weight_decay a step."""
    for start, decays in (("qera", False), ("zero", True)):
        module = workshop.fit(
            Cyclic("turns", ["8"]), tmp_path / start, 1, module_of(shared_start=start, lr=1e-6, weight_decay=1e4)
        )
        for layer in switch_layers(module.model):
            a_RI = layer.lora.lora_A["shared"].weight  # type: ignore[union-attr]
            if start == "qera":
                kept = layer.lora.lora_A["taken"].weight  # type: ignore[union-attr]
                torch.testing.assert_close(a_RI, kept, rtol=0, atol=2e-6)
        groups = module.optimizers().param_groups  # type: ignore[union-attr]
        shared = {id(p) for name, p in module.named_parameters() if ".shared." in name}
        found = {group["weight_decay"] > 0 for group in groups for p in group["params"] if id(p) in shared}
        assert found == {decays}
