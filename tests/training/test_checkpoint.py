"""Checkpoints hold what was trained and nothing else; adapters go back to plain peft."""

import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from workshop import Workshop, assert_same, trained

from switchq.errors import UserError
from switchq.models import make_switchable, save_adapters
from switchq.nn import at, set_bitmap, switch_layers
from switchq.quant import Asymmetric, Nested, Symmetric
from switchq.training import checkpoint_io
from switchq.training.callbacks import Cyclic, LastCheckpoint, SPNet
from switchq.training.checkpoint import load_checkpoint, newest_checkpoint, read_checkpoint
from switchq.training.module import SwitchableModule

IDS = torch.arange(5, 45).view(2, 20)


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


@torch.no_grad()
def logits(module: SwitchableModule, bitmap: str) -> Tensor:
    module.eval()
    with at(module.model, bitmap):
        return module.model(IDS).logits


@pytest.fixture(scope="module")
def run(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[SwitchableModule, Path]:
    folder = tmp_path_factory.mktemp("run")
    return workshop.fit(SPNet(), folder, 3), folder


def test_only_what_was_trained_is_stored(run: tuple[SwitchableModule, Path]) -> None:
    module, folder = run
    content = torch.load(last(folder), weights_only=True)
    assert content["state_dict"].keys() == trained(module).keys()
    assert all(".bits_" in name for name in content["state_dict"])
    numbers = sum(value.numel() for value in trained(module).values())
    assert last(folder).stat().st_size < 3 * 4 * numbers + 150_000  # the weights and AdamW's two moments
    assert content["base"] == module.identity.to_dict()
    assert content["hyper_parameters"]["bits"] == [8, 4, 2]


@pytest.mark.parametrize("train_base", [False, True], ids=["adapters", "base too"])
def test_a_loaded_checkpoint_gives_the_same_logits(workshop: Workshop, tmp_path: Path, train_base: bool) -> None:
    module = workshop.fit(SPNet(), tmp_path, 3, workshop.module(train_base=train_base, base_lr=1e-2))
    loaded = load_checkpoint(last(tmp_path))
    assert not loaded.training
    assert_same(trained(loaded), trained(module))
    for bitmap in ("16", "8", "8/4", "2"):
        assert torch.equal(logits(loaded, bitmap), logits(module, bitmap))
    untrained = workshop.module(train_base=train_base)
    assert not torch.equal(logits(loaded, "2"), logits(untrained, "2"))
    assert (tmp_path / "adapters").exists() != train_base


@pytest.mark.parametrize(
    "options",
    [
        {"shared_rank": 2},
        {"learn_scales": True, "scale_lr": 0.05},
        {"learn_scales": True, "scale_lr": 0.05, "train_base": True, "base_lr": 1e-2, "rank": {8: 0, 4: 0, 2: 0}},
        {"train_base": True, "base_lr": 1e-2, "shared_rank": 3, "grid": Asymmetric(group_size=8, scale="mse")},
    ],
    ids=["shared adapter", "scales", "scales and base, no adapters", "base, shared adapter"],
)
def test_whatever_is_trained_comes_back(workshop: Workshop, tmp_path: Path, options: dict[str, Any]) -> None:
    module = workshop.fit(SPNet(), tmp_path, 3, workshop.module(**options))
    untrained = workshop.module(**options)
    changed = {name for name, value in trained(module).items() if not torch.equal(value, trained(untrained)[name])}
    assert changed == trained(module).keys()
    loaded = load_checkpoint(last(tmp_path))
    assert_same(trained(loaded), trained(module))
    for bitmap in ("16", "8", "8/4", "3", "2"):
        assert torch.equal(logits(loaded, bitmap), logits(module, bitmap))


def test_a_base_that_moved_is_found_where_it_is_now(
    run: tuple[SwitchableModule, Path], workshop: Workshop, tmp_path: Path
) -> None:
    shutil.copytree(workshop.base, tmp_path / "moved")
    assert torch.equal(logits(load_checkpoint(last(run[1]), str(tmp_path / "moved")), "2"), logits(run[0], "2"))


def test_another_base_is_refused(run: tuple[SwitchableModule, Path], workshop: Workshop, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(workshop.base)
    other.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1e-3
    shutil.copytree(workshop.base, tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="other weights") as caught:
        load_checkpoint(last(run[1]), str(tmp_path / "other"))
    assert str(caught.value).count("\n") == 0
    module = workshop.module(base=str(tmp_path / "other"))
    with pytest.raises(UserError, match="other weights"):
        workshop.fit(SPNet(), tmp_path, 5, module, resume=last(run[1]))


@pytest.mark.parametrize(
    "options", [{"bits": (8, 2)}, {"rank": {8: 2, 4: 3, 2: 5}}, {"train_base": True}], ids=["bits", "rank", "base"]
)
def test_other_adapters_are_refused(
    run: tuple[SwitchableModule, Path], workshop: Workshop, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"was trained with model.{next(iter(options))} .*, not .*: use the same"):
        workshop.fit(SPNet(), tmp_path, 5, workshop.module(**options), resume=last(run[1]))
    older = read_checkpoint(last(run[1]))
    del older["hyper_parameters"][next(iter(options))]  # whatever it says of itself
    torch.save(older, tmp_path / "older.ckpt")
    with pytest.raises(UserError, match="do not fit this model"):
        workshop.fit(SPNet(), tmp_path, 5, workshop.module(**options), resume=tmp_path / "older.ckpt")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grid": Nested(16)}, "model.grid Symmetric, not Nested"),
        ({"grid": Symmetric(16)}, "model.grid.group_size None, not 16"),
        ({"alpha": {8: 1}}, "model.alpha None, not {8: 1}"),
        ({"lr": 1e-5}, "model.lr 0.01, not 1e-05"),
        ({"width_lr": {2: 0.5}}, "model.width_lr None, not {2: 0.5}"),
        ({"weight_decay": 0.1}, "model.weight_decay 0.0, not 0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_run_cannot_go_on_with_is_refused(
    run: tuple[SwitchableModule, Path], workshop: Workshop, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    """Codes and adapters are of their grid, and an optimiser keeps its rates: other options would count for nothing."""
    with pytest.raises(UserError) as caught:
        workshop.fit(SPNet(), tmp_path, 5, workshop.module(**options), resume=last(run[1]))
    assert told in str(caught.value)
    assert str(caught.value).endswith("use the same, or start anew without --ckpt_path")


def truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


def flipped(good: bytes) -> bytes:
    """Bytes in the directory of the archive changed."""
    return good[:-200] + bytes(byte ^ 255 for byte in good[-200:])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        flipped,
        *(lambda good, text=text: text for text in (b"", b"hello", b".....", b"hello world", b"<html>")),
    ],
    ids=["half", "flipped", "empty", "text", "dots", "words", "page"],
)
def test_a_damaged_file_is_one_line(
    run: tuple[SwitchableModule, Path], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "bad.ckpt").write_bytes(damage(last(run[1]).read_bytes()))
    with pytest.raises(UserError, match="damaged or not a checkpoint") as caught:
        read_checkpoint(tmp_path / "bad.ckpt")
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith("bad.ckpt is damaged or not a checkpoint")  # not torch's advice to run its code


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path("pwned").touch, ()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3)], ids=["no base", "list", "tensor"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="not a switchq checkpoint"):
        read_checkpoint(tmp_path / "foreign.ckpt")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": {}, "base": Evil()}, "evil.ckpt")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        read_checkpoint("evil.ckpt")
    assert not Path("pwned").exists()


def test_a_missing_file_says_where_checkpoints_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lightning_logs/version_N"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        newest_checkpoint(tmp_path)


def test_the_newest_checkpoint_is_the_last_written(tmp_path: Path) -> None:
    for version, age in ((0, 30), (1, 10), (2, 20)):
        place = tmp_path / f"lightning_logs/version_{version}/checkpoints/last.ckpt"
        place.parent.mkdir(parents=True)
        place.touch()
        os.utime(place, (1e9 - age, 1e9 - age))
    assert newest_checkpoint(tmp_path).parts[-3] == "version_1"


def test_saves_come_at_regular_steps_whatever_a_batch_takes(workshop: Workshop, tmp_path: Path) -> None:
    steps: list[int] = []

    class Watch(LastCheckpoint):
        def _save(self, trainer: Any) -> None:
            steps.append(trainer.global_step)
            super()._save(trainer)

    workshop.fit(Cyclic(bitmaps=["8", "4", "2"]), tmp_path, 24, callbacks=[Watch(every_n_steps=7)])
    assert steps == [9, 15, 21, 24]
    with pytest.raises(UserError, match="at least 1"):
        LastCheckpoint(0)


class Dies(RuntimeError):
    """What the others are told of where one process dies."""


def kept(step: int, folder: Path) -> list[str]:
    """The notes of an error after which this step is named."""
    return [f"Step {step} is kept in {last(folder)}: run the same command with --ckpt_path last to go on"]


class TestWhatIsKept:
    """However a save ends, what an error names is what is on disk."""

    @pytest.mark.parametrize("step", [1, 2])
    def test_a_save_that_never_returns_but_is_whole(
        self, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        """Another process dies between the renaming and the barrier behind it."""

        def barrier(strategy: Strategy, name: str | None = None) -> None:
            if (
                name == "Trainer.save_checkpoint"
                and torch.load(last(tmp_path), weights_only=True)["global_step"] == step
            ):
                raise Dies

        monkeypatch.setattr(SingleDeviceStrategy, "barrier", barrier)
        with pytest.raises(Dies) as caught:
            workshop.fit(SPNet(), tmp_path, 3, every=1)
        assert caught.value.__notes__ == kept(step, tmp_path)

    def test_what_the_first_process_has_written_meanwhile(self, workshop: Workshop, tmp_path: Path) -> None:
        """This one fails before it has come to save."""
        workshop.fit(SPNet(), tmp_path / "first", 2)

        class Fails(Callback):
            def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
                if trainer.global_step == 2:
                    last(tmp_path / "first").replace(last(tmp_path))
                    raise Dies

        with pytest.raises(Dies) as caught:
            workshop.fit(SPNet(), tmp_path, 3, callbacks=[Fails()], every=1)
        assert caught.value.__notes__ == kept(2, tmp_path)

    @pytest.mark.parametrize("step", [1, 2])
    def test_a_save_that_fails_before_it_is_whole(
        self, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        """The first step's stays, if this run has written one; another run's is not named."""
        write = checkpoint_io.write_bytes
        workshop.fit(SPNet(), tmp_path, 5)

        def full(path: Path, content: memoryview, option: str) -> None:
            if torch.load(io.BytesIO(content), weights_only=True)["global_step"] == step:
                raise Dies
            write(path, content, option)

        monkeypatch.setattr(checkpoint_io, "write_bytes", full)
        with pytest.raises(Dies) as caught:
            workshop.fit(SPNet(), tmp_path, 3, every=1)
        assert getattr(caught.value, "__notes__", []) == (kept(1, tmp_path) if step == 2 else [])

    def test_half_a_file_is_not_named(self, workshop: Workshop, tmp_path: Path) -> None:
        """Somebody's own way to write may put it where the last one was."""

        class InPlace(TorchCheckpointIO):
            def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
                super().save_checkpoint(checkpoint, path, storage_options)
                if checkpoint["global_step"] == 2:
                    os.truncate(path, os.stat(path).st_size // 2)
                    raise Dies

        with pytest.raises(Dies) as caught:
            workshop.fit(SPNet(), tmp_path, 3, every=1, plugins=[InPlace()])
        assert last(tmp_path).exists()
        assert not hasattr(caught.value, "__notes__")

    def test_ctrl_c_after_the_last_batch(
        self, workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Pressed(Callback):
            def on_train_epoch_end(self, *arguments: Any) -> None:
                os.kill(os.getpid(), signal.SIGINT)

        workshop.fit(SPNet(), tmp_path, 3, callbacks=[Pressed()])
        assert torch.load(last(tmp_path), weights_only=True)["global_step"] == 3
        assert f"Stopped after step 3 and saved {last(tmp_path)}.\n" in capsys.readouterr().err


class TestLossThatIsNotFinite:
    def test_a_diverging_run_names_step_and_bitmap_and_keeps_the_good_checkpoint(
        self, workshop: Workshop, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=r"not a finite number at step \d+ \(batch \d+\).*--model.lr"):
            workshop.fit(SPNet(), tmp_path, 30, workshop.module(lr=1e30), every=1)
        with pytest.raises(UserError, match=r"loss at bitmap (8|8/4|4|4/2|2) "):
            workshop.fit(SPNet(), tmp_path / "b", 30, workshop.module(lr=1e30), every=1)
        step = torch.load(last(tmp_path), weights_only=True)["global_step"]
        assert step >= 1
        loaded = load_checkpoint(last(tmp_path))
        assert all(torch.isfinite(value).all() for value in trained(loaded).values())

    def test_the_bitmap_is_the_one_at_fault(self, workshop: Workshop, tmp_path: Path) -> None:
        module = workshop.module()
        poisoned = switch_layers(module.model)[3].lora
        poisoned.lora_B["bits_4"].weight.data[0, 0] = float("nan")  # type: ignore[union-attr, operator, index]
        with pytest.raises(UserError, match="loss at bitmap 8/4 is not a finite number at step 0"):
            workshop.fit(SPNet(), tmp_path, 3, module)
        assert not last(tmp_path).exists()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
class TestPlainPeft:
    @pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
    def test_every_adapter_loads_and_gives_the_same_logits(
        self, tiny: Callable[..., PreTrainedModel], name: str, tokens_BT: Tensor, tmp_path: Path
    ) -> None:
        model = make_switchable(tiny(name), rank={8: 2, 4: 3, 2: 4}, alpha={4: 5})
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        folders = save_adapters(model, tmp_path)
        assert [folder.name for folder in folders] == ["bits_8", "bits_4", "bits_2"]
        set_bitmap(model, 16)
        seen = []
        for bits, folder in zip((8, 4, 2), folders):
            assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
            plain = peft.PeftModel.from_pretrained(tiny(name), folder).eval()
            for layer in switch_layers(model):
                layer.lora.__dict__["_active_adapter"] = [f"bits_{bits}"]
            with torch.no_grad():
                seen.append(model(tokens_BT).logits)
                torch.testing.assert_close(plain(tokens_BT).logits, seen[-1])
        assert not torch.allclose(seen[0], seen[1])

    def test_the_shared_one_is_part_of_all(
        self, tiny: Callable[..., PreTrainedModel], tokens_BT: Tensor, tmp_path: Path
    ) -> None:
        model = make_switchable(tiny("gpt2"), rank={8: 0, 4: 3, 2: 4}, alpha={4: 5}, shared_rank=2)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        folders = save_adapters(model, tmp_path)
        assert [folder.name for folder in folders] == ["shared", "bits_4", "bits_2"]
        for folder, names in zip(folders, (["shared"], ["shared", "bits_4"], ["shared", "bits_2"])):
            plain = peft.PeftModel.from_pretrained(tiny("gpt2"), folder).eval()
            for layer in switch_layers(model):
                layer.lora.__dict__["_active_adapter"] = names
            with torch.no_grad():
                torch.testing.assert_close(plain(tokens_BT).logits, model(tokens_BT).logits)

    def test_a_run_writes_them(self, run: tuple[SwitchableModule, Path], workshop: Workshop) -> None:
        module, folder = run
        base = AutoModelForCausalLM.from_pretrained(workshop.base)
        plain = peft.PeftModel.from_pretrained(base, folder / "adapters" / "bits_8").eval()
        with torch.no_grad():
            torch.testing.assert_close(plain(IDS).logits, logits(module, "16"))

    def test_an_unwritable_place_is_one_line(self, tiny: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"cannot write .*bits_8"):
            save_adapters(make_switchable(tiny("gpt2")), tmp_path / "file")
