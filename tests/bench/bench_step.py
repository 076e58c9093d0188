"""A training pass of `SwitchableModule` against a plain peft LoRA step on the same model, batch, rank and dtype.

One call of ours is `training_step` with a plan of one pass: switch, forward, loss, backward, clipping, the check for
NaN, AdamW, logging. `ladder` is a plan over the whole ladder with one optimiser step, its time divided by its passes.
The plain step is forward with the model's own loss, backward and AdamW, nothing else. With `--config` ours is what a
configuration of `switchq fit` trains, adapters of all its ranks, and `ladder` its schedule's bitmaps, in their order.

    python tests/bench/bench_step.py --device cpu
    python tests/bench/bench_step.py --device cuda --base-dtype bfloat16 --compile
    python tests/bench/bench_step.py --device cpu --config configs/cyclic.yaml
"""

import argparse
import sys
from collections.abc import Callable
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
    options.add_argument("--rungs", nargs="+", default=list(ladder([8, 4, 2])), help="bitmaps of our passes")
    options.add_argument("--config", type=Path, default=None, help="of `switchq fit`: ours is what it trains")
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
    if arguments.config:
        module, order, steps = recipe(arguments.config, folder, dtype, arguments.compile)
    else:
        module, order, steps = switchable(folder, dtype, rank, arguments.compile), arguments.rungs, False
    rows: list[Row] = []

    def body(trainer: Trainer) -> None:
        for one in others:
            one.train(module.model.training)  # the same dropout
        names = get_switch(module.model).names
        rungs = {f"{rung} bits": Bitmap.parse(rung, names) for rung in order}
        alone = rungs if arguments.compile else {name: one for name, one in rungs.items() if "/" not in name}
        target = COMPILED_TARGET if arguments.compile else RECIPE_TARGET if arguments.config else TARGETS[device]
        for labels in arguments.labels:
            batch = random_batch(arguments, labels)
            calls: dict[str, Callable[[], None]] = {"plain peft": plain_step(plain, batch, autocast)}
            if lean is not None:
                calls["plain peft, bf16 adapters, no autocast"] = plain_step(lean, batch, autocast=False)
            ours = {name: (Pass(bitmap),) for name, bitmap in alone.items()}
            ours["ladder, per pass"] = tuple(Pass(rungs[f"{rung} bits"], step=steps) for rung in order)
            for name, plan in ours.items():
                calls[name] = our_step(trainer, module, plan, batch)
            measured = side_by_side(
                calls,
                arguments.rounds,
                clock=arguments.clock,
                shares={name: len(plan) for name, plan in ours.items()},
                targets=dict.fromkeys(ours, target) if labels == "all" else {},
            )
            rows.extend(replace(row, name=f"{row.name}, labels on {labels}") for row in measured)

    inside_fit(module, device, autocast, body)
    return rows


def recipe(config: Path, base: Path, dtype: str, compile: bool) -> tuple[SwitchableModule, list[str], bool]:
    """What a configuration trains, the bitmaps of its schedule, and whether each is an optimiser step of its own.

    Adapters start at nothing: a start wants data, and changes values, not what a pass computes.
    """
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SwitchableModule, "model")
    ours = {"base": str(base), "dtype": dtype, "compile": compile, "decay": "constant_with_warmup"}
    starts = {"adapter_start": "zero", "shared_start": "zero"}
    parsed = parser.parse_object({"model": content["model"] | starts | ours})
    schedule = content["schedule"]
    order = schedule["init_args"].get("bitmaps") or ladder(content["model"]["bits"])
    turns = schedule["class_path"].endswith("Cyclic")
    return parser.instantiate_classes(parsed).model, [str(one) for one in order], turns


def our_step(trainer: Trainer, module: SwitchableModule, plan: Plan, batch: dict[str, Tensor]) -> Callable[[], None]:
    """The module's training step with this plan, through the strategy, as the Trainer calls it."""

    def step() -> None:
        module.plan = plan
        trainer.strategy.training_step(batch, 0)

    return step


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
