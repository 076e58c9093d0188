"""A resumed run trains on the batches that an unbroken run would have trained on, wherever it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from switchq.data.modules import SquadData

from .conftest import as_document, many_questions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
]


class Toy(LightningModule):
    """Manual optimisation of one number; remembers which questions each batch held."""

    def __init__(self, peeks: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.peeks = peeks
        self.seen: list[tuple[int, ...]] = []
        self.validations: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.seen.append(tuple(batch["input_ids"].sum(1).tolist()))
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.weight - batch["input_ids"].float().mean()) ** 2)
        optimizer.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert len(batch.questions) > 0

    def on_validation_start(self) -> None:
        self.validations.append(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.peeks:  # makes Lightning build the training loader before it restores its progress
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def data(write_squad: Callable[..., Path], model_folder: str) -> Callable[[], SquadData]:
    """48 training questions, 12 batches of 4: two of 14 contexts are held out."""
    train, dev = write_squad(as_document(many_questions(56))), write_squad(as_document(many_questions(8)), "dev")
    return lambda: SquadData(model_folder, str(train), str(dev), batch_size=4, holdout=6, eval_batch_size=4)


def run(data: SquadData, folder: Path, module: Toy, resume: Path | None = None, **options: Any) -> Toy:
    checkpoints = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=5, save_last=True)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[checkpoints],
        **options,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.parametrize("peeks", [False, True], ids=["plain", "asks for the number of steps"])
@pytest.mark.parametrize("step", [5, 10, 15, 20, 30], ids=lambda step: f"from step {step}")
def test_from_a_checkpoint_inside_an_epoch(
    data: Callable[[], SquadData], tmp_path: Path, step: int, peeks: bool
) -> None:
    unbroken = run(data(), tmp_path / "unbroken", Toy(peeks), max_epochs=3)
    resumed = run(data(), tmp_path / "again", Toy(peeks), tmp_path / "unbroken" / f"step={step}.ckpt", max_epochs=3)
    assert len(unbroken.seen) == 36
    assert len(set(unbroken.seen)) > 30
    assert resumed.seen == unbroken.seen[step:]
    assert torch.equal(resumed.weight, unbroken.weight)
    assert resumed.validations == [at for at in unbroken.validations if at > step]


@pytest.mark.parametrize("steps", [5, 12, 17, 24, 25], ids=lambda steps: f"stopped at {steps}")
def test_from_the_last_checkpoint_of_a_shorter_run(data: Callable[[], SquadData], tmp_path: Path, steps: int) -> None:
    unbroken = run(data(), tmp_path / "unbroken", Toy(), max_steps=30)
    first = run(data(), tmp_path / "first", Toy(), max_steps=steps)
    last = tmp_path / "first" / "last.ckpt"
    saved_at = torch.load(last, weights_only=True)["global_step"]
    resumed = run(data(), tmp_path / "second", Toy(), last, max_steps=30)
    assert first.seen == unbroken.seen[:steps]
    assert resumed.seen == unbroken.seen[saved_at:]
    assert torch.equal(resumed.weight, unbroken.weight)


def test_epochs_cut_short_and_loaders_made_anew_go_on_through_the_data(
    data: Callable[[], SquadData], tmp_path: Path
) -> None:
    plain = run(data(), tmp_path / "plain", Toy(), max_epochs=1)
    options = {"limit_train_batches": 5, "reload_dataloaders_every_n_epochs": 1, "max_epochs": 2}
    cut = run(data(), tmp_path / "cut", Toy(), **options)
    assert cut.seen == plain.seen[:10]
    resumed = run(data(), tmp_path / "again", Toy(), tmp_path / "cut" / "step=5.ckpt", **options)
    assert resumed.seen == plain.seen[5:10]
