"""What a shared start took out of the weights: in checkpoints, artifacts, folders for others, and counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from workshop import Workshop, assert_same, padded, trained

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.evaluation.memory import weight_bytes
from switchq.evaluation.perplexity import text_perplexity
from switchq.inference import SwitchableLM, export_artifact, export_fixed
from switchq.inference.artifact import MANIFEST
from switchq.inference.formats.coded import code_layer
from switchq.models import make_switchable, save_adapters
from switchq.nn import at, switch_layers
from switchq.quant import Nested
from switchq.training.calibrated_start import start_from_inputs
from switchq.training.callbacks import Cyclic
from switchq.training.checkpoint import load_checkpoint, read_checkpoint
from switchq.training.module import SwitchableModule

from .shared_start import IDS, STATES, logits, weights


@pytest.fixture(scope="module")
def run(
    workshop: Workshop, module_of: Callable[..., SwitchableModule], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SwitchableModule, Path]:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)  # of the SVDs
    return workshop.fit(Cyclic("turns", ["8", "2"]), folder, 4, module_of()), folder / "checkpoints/last.ckpt"


class TestCheckpoint:
    def test_gives_the_same_logits(self, run: tuple[SwitchableModule, Path]) -> None:
        module, last = run
        loaded = load_checkpoint(last)
        assert_same(trained(loaded), trained(module))
        for state in STATES:
            assert torch.equal(logits(loaded.model, *state), logits(module.model, *state)), state
        assert not torch.equal(logits(module.model, "2", True), logits(module.model, "2", False))

    def test_is_rounded_when_it_is_loaded(self, run: tuple[SwitchableModule, Path]) -> None:
        for layer in switch_layers(load_checkpoint(run[1]).model):
            assert all(layer.linear.is_prepared(bits) for bits in (8, 4, 2))

    def test_a_run_goes_on(
        self,
        workshop: Workshop,
        module_of: Callable[..., SwitchableModule],
        run: tuple[SwitchableModule, Path],
        tmp_path: Path,
    ) -> None:
        torch.manual_seed(0)
        unbroken = workshop.fit(Cyclic("turns", ["8", "2"]), tmp_path / "a", 6, module_of())
        resumed = workshop.fit(Cyclic("turns", ["8", "2"]), tmp_path / "b", 6, module_of(), resume=run[1])
        assert_same(trained(unbroken), trained(resumed))
        for state in STATES:
            assert torch.equal(logits(resumed.model, *state), logits(unbroken.model, *state)), state

    def test_may_be_looked_at_before(
        self, module_of: Callable[..., SwitchableModule], run: tuple[SwitchableModule, Path]
    ) -> None:
        """As the command line does before a run goes on."""
        module = module_of()
        module.on_load_checkpoint(read_checkpoint(run[1]))
        left = weights(module.model)
        module.on_load_checkpoint(read_checkpoint(run[1]))
        for name, weight_OI in weights(module.model).items():
            assert torch.equal(weight_OI, left[name])

    def test_another_start_is_refused(
        self, module_of: Callable[..., SwitchableModule], run: tuple[SwitchableModule, Path], tokens_BT: Tensor
    ) -> None:
        module = module_of()
        start_from_inputs(module.model, [padded(tokens_BT, 3)])
        with pytest.raises(UserError, match="another start"):
            module.on_load_checkpoint(read_checkpoint(run[1]))
        for name, was, other in (("shared_start", "qera", "zero"), ("shared_rank", 3, 2)):
            with pytest.raises(UserError, match=f"trained with model.{name} {was}, not {other}: use the same"):
                module_of(**{name: other}).on_load_checkpoint(read_checkpoint(run[1]))

    def test_whole_weights_of_a_sharded_run_are_refused(
        self, module_of: Callable[..., SwitchableModule], run: tuple[SwitchableModule, Path]
    ) -> None:
        """A sharding strategy has loaded the state, and the weights were sharded whole."""
        content = {name: value for name, value in read_checkpoint(run[1]).items() if name != "state_dict"}
        with pytest.raises(UserError, match="before its model is sharded"):
            module_of().on_load_checkpoint(content)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
class TestExport:
    def test_an_artifact_is_the_model_at_every_width(self, run: tuple[SwitchableModule, Path], tmp_path: Path) -> None:
        module = run[0]
        export_artifact(
            module.model, module.tokenizer, tmp_path / "artifact", widths=(8, 4, 3, 2), base={"name": "", "sha256": ""},
            embedding_bits=32,
        )  # fmt: skip
        assert (
            json.loads((tmp_path / "artifact" / MANIFEST).read_text())["version"] == 2
        )  # older readers know no "taken"
        lm = SwitchableLM.from_pretrained(tmp_path / "artifact", packed=False)
        for bitmap, adapters in STATES[2:]:
            lm.set_bitmap(bitmap, adapters=adapters)
            with torch.no_grad():
                torch.testing.assert_close(lm(IDS).logits, logits(module.model, bitmap, adapters), rtol=0, atol=5e-3)
        packed = SwitchableLM.from_pretrained(tmp_path / "artifact", "2")
        for adapters in (True, False):
            packed.set_bitmap("2", adapters=adapters)
            expected = logits(module.model, "2", adapters)
            with torch.no_grad():
                assert float((packed(IDS).logits - expected).std() / expected.std()) < 0.02
            own = [
                weight_bytes(model, Bitmap([2] * 8), adapters=adapters).adapters
                for model in (packed.model, module.model)
            ]
            assert own[0] == own[1] > 0

    def test_plain_peft_is_for_the_base_as_it_was(
        self, run: tuple[SwitchableModule, Path], workshop: Workshop, tmp_path: Path
    ) -> None:
        folders = save_adapters(run[0].model, tmp_path)
        assert [folder.name for folder in folders] == ["shared", "bits_8", "bits_4", "bits_2"]
        base = AutoModelForCausalLM.from_pretrained(workshop.base)
        plain = peft.PeftModel.from_pretrained(base, folders[1]).eval()  # 8 bits' adapter runs at 16, too
        with torch.no_grad():
            torch.testing.assert_close(plain(IDS).logits, logits(run[0].model, "16", True), rtol=0, atol=1e-4)

    def test_one_bitmap(self, run: tuple[SwitchableModule, Path], tmp_path: Path) -> None:
        """Merged, or rounded weights with their adapters beside them; not without."""
        module = run[0]
        with pytest.raises(UserError, match="cannot be left off: give --adapters merged or peft"):
            export_fixed(module.model, module.tokenizer, tmp_path / "off", "2", adapters="off")
        assert not (tmp_path / "off").exists()
        export_fixed(module.model, module.tokenizer, tmp_path / "merged", "2")
        export_fixed(module.model, module.tokenizer, tmp_path / "peft", "2", adapters="peft")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        beside = AutoModelForCausalLM.from_pretrained(tmp_path / "peft")
        beside = peft.PeftModel.from_pretrained(beside, tmp_path / "peft/adapters/bits_2").eval()
        for plain in (merged, beside):
            with torch.no_grad():
                torch.testing.assert_close(plain(IDS).logits, logits(module.model, "2", True), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_what_is_rounded_again_beside_peft_is_measured_as_it_runs(
    tiny_llama: Any, character_tokenizer: PreTrainedTokenizerFast, tokens_BT: Tensor, tmp_path: Path
) -> None:
    """The figures are those of the model, and of the written folder with its adapters laid over it."""
    model = make_switchable(tiny_llama(), (4,), Nested(16), shared_rank=2, shared_start="qera", rank={4: 2})
    start_from_inputs(model, [padded(tokens_BT, 3)])
    windows = [tokens_BT[0].tolist()]
    done = export_fixed(
        model, character_tokenizer, tmp_path / "out", "4", "compressed-tensors", adapters="peft", windows=windows
    )
    assert done.loss is not None
    ids_1T = tokens_BT[:1]
    config = LlamaConfig.from_pretrained(tmp_path / "out")
    del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(tiny_llama().state_dict())
    for layer in switch_layers(model):
        with at(model, "4"):
            written_OI = code_layer(layer, merge=False, zero_points=False).weight()
        plain.get_submodule(layer.name).weight.data = written_OI
    beside = peft.PeftModel.from_pretrained(plain, tmp_path / "out/adapters/bits_4").eval()
    with torch.no_grad():
        largest = float((beside(ids_1T).logits - logits(model, "4", True, ids_1T)).abs().max())
    assert done.loss.logits == pytest.approx(largest, rel=1e-3)
    before = text_perplexity(model, windows)
    with at(model, "4"):
        assert done.loss.perplexity[0] == pytest.approx(text_perplexity(model, windows), rel=1e-5)  # type: ignore[index]
    assert before != pytest.approx(done.loss.perplexity[0], rel=1e-3)  # type: ignore[index]


def test_without_adapters_what_was_taken_out_is_counted(run: tuple[SwitchableModule, Path]) -> None:
    layers = switch_layers(run[0].model)
    bitmap = Bitmap([2] * len(layers))
    rows = {True: 3 + 3, False: 3}  # ranks
    for adapters, rank in rows.items():
        counted = weight_bytes(run[0].model, bitmap, adapters=adapters).adapters
        assert counted == 2 * rank * sum(sum(layer.shape) for layer in layers)
