"""What two processes train, for `test_devices.py`: every scenario by name, run in each process, results on disk."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from workshop import Gradients, Workshop, trained

from switchq.quant import Nested
from switchq.training.callbacks import Cyclic, InstantNet, Schedule, SPNet
from switchq.training.checkpoint import read_checkpoint
from switchq.training.module import SwitchableModule

Scenario = tuple[Callable[[], Schedule], dict[str, Any], dict[str, Any], int]
"""Schedule, options of the module, options of the fit, optimiser steps."""

SCENARIOS: dict[str, Scenario] = {
    "spnet, clipped": (lambda: SPNet(distill=1.0), {"max_grad_norm": 0.05}, {}, 3),
    "spnet, sandwich": (lambda: SPNet(sampler="sandwich", mixed=2), {}, {}, 2),
    "spnet, accumulated": (lambda: SPNet(["8", "2"]), {"accumulate": 2}, {}, 2),
    "spnet, balanced": (lambda: SPNet(["8", "2"]), {"shared_rank": 3, "balance": True}, {}, 3),
    "spnet, switch dropout": (lambda: SPNet(["8", "2"]), {"switch_dropout": 0.3}, {}, 3),
    "spnet, all tokens and states": (
        lambda: SPNet(["8", "2"], distill=1.0),
        {"kd_tokens": "all", "kd_top_k": 5, "kd_hidden": 0.5},
        {"data": {"batch_size": 3, "limit_train": 7}},
        4,
    ),
    "spnet, own norms": (lambda: SPNet(["8", "2"]), {"own_norms": True}, {}, 3),
    "spnet, all trained": (lambda: SPNet(["4", "2"]), {"train_base": True, "learn_scales": True}, {}, 3),
    "cyclic, each": (lambda: Cyclic(), {}, {}, 7),
    "cyclic, turns": (lambda: Cyclic("turns", ["8", "mixed", "2"]), {"shared_rank": 3}, {}, 4),
    "instantnet, bare teacher": (lambda: InstantNet(bare_teacher=True), {}, {}, 2),
    "bfloat16": (lambda: SPNet(["8", "2"]), {}, {"precision": "bf16-mixed"}, 2),
    "checkpointing": (lambda: SPNet(["8", "2"]), {"gradient_checkpointing": True}, {}, 2),
    "spnet, block start": (
        lambda: SPNet(["8", "2"]),
        {
            "adapter_start": "apiq",
            "start_batches": 3,
            "start_steps": 4,
            "learn_scales": True,
            "lr": 0.0,
            "scale_lr": 0.0,
        },
        {"data": {"batch_size": 3, "limit_train": 7}},  # the third batch has one row
        2,
    ),
    "spnet, shared start": (  # of all ranks: a part of them is what last bits and a randomised SVD make of it
        lambda: SPNet(["8", "2"]),
        {
            "adapter_start": "qera",
            "shared_start": "qera",
            "shared_rank": 32,
            "rank": {8: 0, 4: 0, 2: 0},
            "start_batches": 3,
            "grid": Nested(8),
            "lr": 0.0,
        },
        {},
        3,
    ),
    "uneven batches": (lambda: SPNet(["8", "2"]), {}, {"data": {"batch_size": 3, "limit_train": 7}}, 6),
}

SHARDED = (
    "spnet, clipped", "cyclic, turns", "spnet, all trained", "spnet, balanced", "spnet, own norms",
    "spnet, shared start",
)  # fmt: skip
"""Those that are also trained with FSDP2."""


def train(workshop: Workshop, name: str, folder: Path, less: int = 0, **trainer: Any) -> dict[str, Any]:
    """Train a scenario, by `less` steps if it is to be gone on with; what it came to."""
    schedule, options, fitting, steps = SCENARIOS[name]
    fitting = {**fitting, **trainer}
    module = workshop.module(**options)
    started = note_start(module) if "adapter_start" in options else {}
    if "resume" in fitting:  # as the command line does
        module.on_load_checkpoint(read_checkpoint(fitting["resume"]))
    gradients = Gradients()
    data = workshop.data(**fitting.pop("data", {}))
    workshop.fit(schedule(), folder, steps - less, module, data=data, callbacks=[gradients], validate=True, **fitting)
    whole = {key: getattr(value, "full_tensor", lambda value=value: value)() for key, value in trained(module).items()}
    return {
        "started": {key: value.cpu() for key, value in started.items()},
        "trained": {key: value.cpu() for key, value in whole.items()},
        "figures": {result.label: result.figures() for result in module.results},
        "answers": {result.label: result.predictions for result in module.results},
        "latest": {key: float(value) for key, value in module.latest.items()},
    }


def note_start(module: SwitchableModule) -> dict[str, Tensor]:
    """Let a module start its adapters; what they start at, filled in before DDP gives all processes the first's."""
    for name, parameter in module.named_parameters():
        if "lora_B" in name:  # what already does something is not started
            torch.nn.init.zeros_(parameter)
    started: dict[str, Tensor] = {}
    setup = module.setup

    def noted(stage: str) -> None:
        setup(stage)
        started.update(trained(module))

    module.setup = noted  # type: ignore[method-assign]
    return started


def work(number: int, workshop: Workshop, folder: str, accelerator: str, port: int) -> None:
    """Process `number` of two."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(number), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared = {"accelerator": accelerator, "devices": 2, "use_distributed_sampler": False}
    found = {}
    for strategy in ("ddp", "fsdp2"):
        for name in SCENARIOS if strategy == "ddp" else SHARDED:
            place = Path(folder) / f"{strategy} {name}"
            found[strategy, name] = train(workshop, name, place, strategy=strategy, **shared)
    name = "spnet, clipped"
    found["again", name] = train(workshop, name, Path(folder) / "again", strategy="ddp", **shared)
    # A run of two steps less has not come to the adapter of the last turn.
    parts = [(("resumed", name), ("fsdp2", "fsdp2")) for name in SHARDED]
    parts += [(("to fsdp2", name), ("ddp", "fsdp2")), (("to ddp", name), ("fsdp2", "ddp"))]
    for (what, name), (first, then) in parts:
        place, rest = Path(folder) / f"{what} {name}", Path(folder) / f"{what} {name}, rest"
        train(workshop, name, place, less=2, strategy=first, **shared)
        last = place / "checkpoints/last.ckpt"
        found[what, name] = train(workshop, name, rest, strategy=then, resume=last, **shared)
    torch.save(found, f"{folder}/{number}.pt")
    dist.destroy_process_group()
