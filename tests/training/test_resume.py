"""A run that was stopped and resumed ends with the weights of an unbroken one, bit for bit."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from workshop import Workshop, assert_same, trained

from switchq.training.callbacks import Cyclic, InstantNet, Schedule, SPNet
from switchq.training.checkpoint import load_checkpoint
from switchq.training.module import SwitchableModule

SCHEDULES: dict[str, tuple[Callable[[], Schedule], int]] = {
    "spnet": (lambda: SPNet(bitmaps=["8", "2"]), 1),
    "sandwich": (lambda: SPNet(sampler="sandwich", mixed=1), 1),
    "each": (lambda: Cyclic(bitmaps=["8", "2"]), 2),
    "cosine": (lambda: Cyclic(mode="cosine", cycles=2), 1),
    "auto": (lambda: Cyclic(mode="cosine", cycles=2, low="auto", range_test_steps=2), 1),
    "instantnet": (lambda: InstantNet(bitmaps=["8", "2"], bare_teacher=True, warmup_steps=8), 1),
}
"""Schedule, and optimiser steps that it takes a batch."""


class CtrlC(Callback):
    """Presses Ctrl-C in the middle of a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.seen = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), signal.SIGINT)


CASES = [
    pytest.param(name, stop_at, dropout, id=f"{name}, batch {stop_at}{', dropout' * dropout}")
    for name, stop_at, dropout in (
        *((name, 7, True) for name in SCHEDULES),
        *((name, 2, False) for name in ("spnet", "each", "cosine", "instantnet")),
    )
]


@pytest.mark.parametrize(("name", "stop_at", "dropout"), CASES)
def test_ctrl_c_and_on(
    workshop: Workshop,
    dropout_workshop: Workshop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    stop_at: int,
    dropout: bool,
) -> None:
    shop = dropout_workshop if dropout else workshop
    options: dict[str, Any] = {"decay": "cosine", "adapter_dropout": 0.1 if dropout else 0.0}
    make, per_batch = SCHEDULES[name]
    steps = 9 * per_batch
    unbroken = shop.fit(make(), tmp_path / "a", steps, shop.module(**options))
    handler = signal.getsignal(signal.SIGINT)
    stopped = shop.fit(make(), tmp_path / "b", steps, shop.module(**options), callbacks=[CtrlC(stop_at)])
    assert signal.getsignal(signal.SIGINT) is handler
    assert stopped.trainer.global_step == stop_at * per_batch
    assert "--ckpt_path last" in capsys.readouterr().err
    torch.manual_seed(99)
    resumed = shop.fit(make(), tmp_path / "b", steps, shop.module(**options), resume=True)
    assert resumed.trainer.global_step == steps
    assert_same(trained(unbroken), trained(resumed))


@pytest.mark.parametrize("name", ["spnet", "each", "instantnet"])
def test_a_run_that_reached_its_steps_can_be_prolonged(workshop: Workshop, tmp_path: Path, name: str) -> None:
    make, per_batch = SCHEDULES[name]
    unbroken = workshop.fit(make(), tmp_path / "a", 8 * per_batch)
    workshop.fit(make(), tmp_path / "b", 4 * per_batch)
    assert_same(trained(unbroken), trained(workshop.fit(make(), tmp_path / "b", 8 * per_batch, resume=True)))


LEVERS: dict[str, dict[str, Any]] = {
    "balance": {"balance": True, "shared_rank": 2},
    "switch dropout": {"switch_dropout": 0.5},
    "all tokens and states": {"kd_tokens": "all", "kd_top_k": 5, "kd_hidden": 0.5},
    "own norms": {"own_norms": True, "width_lr": {2: 2.0}},
}


@pytest.mark.parametrize("name", LEVERS)
def test_levers_outlive_a_checkpoint(workshop: Workshop, tmp_path: Path, name: str) -> None:
    def fit(place: str, steps: int, **options: Any) -> SwitchableModule:
        return workshop.fit(
            SPNet(["8", "2"], distill=1.0), tmp_path / place, steps, workshop.module(**LEVERS[name]), **options
        )

    unbroken = trained(fit("a", 6))
    fit("b", 3)
    assert_same(unbroken, trained(fit("b", 6, resume=True)))
    loaded = load_checkpoint(tmp_path / "b/checkpoints/last.ckpt")
    assert_same(unbroken, trained(loaded))


class Kept(Callback):
    """Copies last.ckpt as it was while the run went on: what a killed run leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        last = self.folder / "checkpoints" / "last.ckpt"
        if last.exists() and not (self.folder / "kept.ckpt").exists():
            (self.folder / "kept.ckpt").write_bytes(last.read_bytes())


@pytest.mark.parametrize("name", ["spnet", "each", "instantnet"])
def test_a_killed_run_goes_on_from_its_latest_save(dropout_workshop: Workshop, tmp_path: Path, name: str) -> None:
    make, per_batch = SCHEDULES[name]
    steps = 8 * per_batch
    options: dict[str, Any] = {"every": 3, "max_epochs": 2}
    unbroken = dropout_workshop.fit(make(), tmp_path, steps, callbacks=[Kept(tmp_path)], **options)
    saved = torch.load(tmp_path / "kept.ckpt", weights_only=True)["global_step"]
    assert 3 <= saved < 3 + per_batch
    resumed = dropout_workshop.fit(make(), tmp_path / "b", steps, resume=tmp_path / "kept.ckpt", **options)
    assert_same(trained(unbroken), trained(resumed))


@pytest.mark.parametrize(("batch", "step"), [(3, 2), (4, 2), (5, 3)])
def test_ctrl_c_between_accumulated_batches_waits_for_the_step(
    workshop: Workshop, tmp_path: Path, batch: int, step: int
) -> None:
    def module() -> Any:
        return workshop.module(accumulate=2)

    def schedule() -> Schedule:
        return SPNet(bitmaps=["8", "2"])

    unbroken = workshop.fit(schedule(), tmp_path / "a", 7, module())
    stopped = workshop.fit(schedule(), tmp_path / "b", 7, module(), callbacks=[CtrlC(batch)])
    assert stopped.trainer.global_step == step
    assert_same(trained(unbroken), trained(workshop.fit(schedule(), tmp_path / "b", 7, module(), resume=True)))


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param((3,), id="inside an epoch"),
        pytest.param((5,), id="at its end"),
        pytest.param((6,), id="in the next"),
        pytest.param((5, 2), id="at its end and in the next"),
        pytest.param((3, 2, 1, 1), id="four times"),
    ],
)
def test_a_run_of_whole_epochs_takes_as_many_steps(
    workshop: Workshop, tmp_path: Path, batches: tuple[int, ...]
) -> None:
    def fit(folder: Path, *callbacks: Callback, resume: bool = False) -> Any:
        module = workshop.module(decay="cosine")
        options: dict[str, Any] = {"callbacks": callbacks, "resume": resume, "max_epochs": 2}
        return workshop.fit(SPNet(bitmaps=["8"]), folder, -1, module, **options)

    unbroken = fit(tmp_path / "a")
    for run, batch in enumerate(batches):
        fit(tmp_path / "b", CtrlC(batch), resume=run > 0)
    resumed = fit(tmp_path / "b", resume=True)
    assert resumed.trainer.global_step == 10
    assert resumed.trainer.current_epoch == 2
    assert_same(trained(unbroken), trained(resumed))


@pytest.mark.parametrize("name", ["spnet", "each"])
def test_validation_does_not_touch_training(dropout_workshop: Workshop, tmp_path: Path, name: str) -> None:
    make, per_batch = SCHEDULES[name]
    plain = dropout_workshop.fit(make(), tmp_path / "a", 6 * per_batch)
    watched = dropout_workshop.fit(make(), tmp_path / "b", 6 * per_batch, validate=True)
    assert len(watched.results) == 2
    assert {"F1/8", "EM/2", "answer perplexity/2"} <= set(watched.trainer.callback_metrics)
    assert watched.training
    assert_same(trained(plain), trained(watched))


def test_ctrl_c_twice_stops_at_once(workshop: Workshop, tmp_path: Path) -> None:
    class Twice(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        workshop.fit(SPNet(bitmaps=["8"]), tmp_path, 9, callbacks=[Twice()], every=1)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
