"""A training pass of `SwitchableModule` against a plain peft LoRA step on the same model, batch, rank and dtype.

One call of ours is `training_step` with a plan of one pass: switch, forward, loss, backward, clipping, the check for
NaN, AdamW, logging. `ladder` is a plan over the whole ladder with one optimiser step, its time divided by its passes.
The plain step is forward with the model's own loss, backward and AdamW, nothing else: no clipping, checks or logs.

With `--config` ours is the model of a configuration of `switchq fit`, adapters of all its ranks, and instead of
`ladder` there is its `schedule`, a round of it: all turns of `turns`, else a step, on the same batch. Its time is
divided by the passes that learn. Starts are left out: they want data, and change values, not what a pass computes.

    python tests/bench/bench_step.py --device cpu
    python tests/bench/bench_step.py --device cuda --base-dtype bfloat16 --compile
    python tests/bench/bench_step.py --device cpu --config configs/cyclic.yaml
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from sidebyside import Row, parser, prepare, report, side_by_side
from subjects import SHAPES, inside_fit, plain_lora, plain_step, quiet, save_random, switchable
from torch import Tensor

from switchq.bitmap import Bitmap, ladder
from switchq.nn import get_switch
from switchq.training.callbacks import Cyclic, Schedule
from switchq.training.module import SwitchableModule
from switchq.training.passes import Pass, Plan

TARGETS = {"cpu": 1.10, "cuda": 1.05}
COMPILED_TARGET = 0.6
RECIPE_TARGET = 1.25
ANSWER_TOKENS = 4
"""Labels per sequence where only the answer is learned: about the mean of SQuAD."""


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument(
        "--shapes", choices=sorted(SHAPES), default="gpt2", help="of the model; its weights are random"
    )
    options.add_argument("--batch", type=int, default=None, help="sequences, 2 on a CPU and 8 on a GPU")
    options.add_argument("--tokens", type=int, default=None, help="a sequence, 128 on a CPU and 1,024 on a GPU")
    options.add_argument("--rank", type=int, default=16, help="of every adapter; with --config, of plain LoRA's")
    options.add_argument("--base-dtype", choices=("float32", "bfloat16"), default=None, help="of the frozen weights")
    what = options.add_mutually_exclusive_group()
    what.add_argument("--rungs", nargs="+", default=list(ladder([8, 4, 2])), help="bitmaps of our passes")
    what.add_argument("--config", type=Path, default=None, help="of `switchq fit`: ours is its model and schedule")
    options.add_argument("--labels", nargs="+", choices=("all", "answer"), default=["all", "answer"])
    options.add_argument(
        "--compile", action="store_true", help="our passes go through torch.compile; plain stays as it is"
    )
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    on_gpu = arguments.device == "cuda"
    arguments.batch = arguments.batch or (8 if on_gpu else 2)
    arguments.tokens = arguments.tokens or (1024 if on_gpu else 128)
    arguments.base_dtype = arguments.base_dtype or ("bfloat16" if on_gpu else "float32")
    with TemporaryDirectory() as folder:
        save_random(arguments.shapes, arguments.base_dtype, Path(folder))
        rows = measure(Path(folder), arguments)
    title = (
        f"Training pass against plain peft LoRA: {arguments.shapes}, {arguments.batch} x {arguments.tokens} tokens, "
        f"{arguments.base_dtype} weights{', bf16 autocast' if on_gpu else ''}"
        f"{', ours compiled' if arguments.compile else ''}"
        f"{f', {arguments.config}' if arguments.config else ''}"
    )
    report(title, rows, arguments)
    return rows


def measure(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """All rows, for each kind of labels."""
    device, dtype, rank = arguments.device, arguments.base_dtype, arguments.rank
    autocast = device == "cuda"
    plain = plain_lora(folder, dtype, rank, device)
    lean = plain_lora(folder, dtype, rank, device, float32_adapters=False) if dtype == "bfloat16" else None
    others = [one for one in (plain, lean) if one is not None]
    schedule: Schedule | None = None
    if arguments.config:
        module, schedule = configured(arguments.config, folder, dtype, arguments.compile)
        arguments.rungs = [str(width) for width in module.hparams["bits"]]
    else:
        module = switchable(folder, dtype, rank, arguments.compile)
    rows: list[Row] = []

    def body(trainer: Trainer) -> None:
        for one in others:
            one.train(module.model.training)  # the same dropout
        names = get_switch(module.model).names
        rungs = {f"{rung} bits": Bitmap.parse(rung, names) for rung in arguments.rungs}
        alone = rungs if arguments.compile else {name: one for name, one in rungs.items() if "/" not in name}
        target = COMPILED_TARGET if arguments.compile else RECIPE_TARGET if schedule else TARGETS[device]
        ours: dict[str, list[Plan]] = {name: [(Pass(bitmap),)] for name, bitmap in alone.items()}
        if schedule:
            schedule.bind(names, module.hparams["bits"])
            ours["schedule, per pass"] = a_round(schedule)
        else:
            ours["ladder, per pass"] = [tuple(Pass(bitmap) for bitmap in rungs.values())]
        for labels in arguments.labels:
            batch = random_batch(arguments, labels)
            calls: dict[str, Callable[[], None]] = {"plain peft": plain_step(plain, batch, autocast)}
            if lean is not None:
                calls["plain peft, bf16 adapters, no autocast"] = plain_step(lean, batch, autocast=False)
            for name, plans in ours.items():
                calls[name] = our_steps(trainer, module, plans, batch)
            measured = side_by_side(
                calls,
                arguments.rounds,
                clock=arguments.clock,
                shares={name: sum(one.learns for plan in plans for one in plan) for name, plans in ours.items()},
                targets=dict.fromkeys(ours, target) if labels == "all" else {},
            )
            rows.extend(replace(row, name=f"{row.name}, labels on {labels}") for row in measured)

    inside_fit(module, device, autocast, body)
    return rows


def configured(config: Path, base: Path, dtype: str, compile: bool) -> tuple[SwitchableModule, Schedule]:
    """What a configuration of `switchq fit` trains and by which schedule, with another base, and no start."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    classes = ArgumentParser(exit_on_error=False)
    classes.add_class_arguments(SwitchableModule, "model")
    classes.add_subclass_arguments(Schedule, "schedule")
    ours = {"base": str(base), "dtype": dtype, "compile": compile, "decay": "constant_with_warmup"}
    ours |= {"adapter_start": "zero", "shared_start": "zero"}
    parsed = classes.parse_object({"model": content["model"] | ours, "schedule": content["schedule"]})
    made = classes.instantiate_classes(parsed)
    return made.model, made.schedule


def a_round(schedule: Schedule) -> list[Plan]:
    """The plans of all turns, or of a step; `schedule` is bound."""
    steps = len(schedule.turns) if isinstance(schedule, Cyclic) and schedule.mode == "turns" else 1
    return [schedule.passes(step) for step in range(steps)]


def our_steps(
    trainer: Trainer, module: SwitchableModule, plans: Sequence[Plan], batch: dict[str, Tensor]
) -> Callable[[], None]:
    """The module's training step with each of these plans, through the strategy, as the Trainer calls it."""

    def steps() -> None:
        for plan in plans:
            module.plan = plan
            trainer.strategy.training_step(batch, 0)

    return steps


def random_batch(arguments: argparse.Namespace, labels: str) -> dict[str, Tensor]:
    """Random tokens without padding; labels on all of them, or on the last few of each sequence."""
    generator = torch.Generator().manual_seed(0)
    size = SHAPES[arguments.shapes].vocab_size
    ids_BT = torch.randint(size, (arguments.batch, arguments.tokens), generator=generator)
    labels_BT = ids_BT.clone()
    if labels == "answer":
        labels_BT[:, :-ANSWER_TOKENS] = -100
    batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": labels_BT}
    return {name: value.to(arguments.device) for name, value in batch.items()}


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
