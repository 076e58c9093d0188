"""Training on one and two devices, by precision and option, and by size of the model: speed, memory and F1.

Weights are random (speed does not depend on them) but in the stages `quality`, which train the embedded model. Two
devices are set beside one twice: with the same joint batch, of which each then gets half, and with a batch each. Each
row is written as soon as it is measured. `plan` reads such rows and extrapolates to 7 billion weights.

    python tests/bench/bench_scale.py --device cuda --stage devices --output scale.jsonl
    python tests/bench/bench_scale.py --stage plan --output scale.jsonl
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as processes
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Callback, Trainer
from subjects import SHAPES, quiet, save_random
from torch.utils.data import DataLoader
from transformers import LlamaConfig

from switchq.data.batches import IGNORED
from switchq.evaluation.memory import peak_memory, reset_peak_memory
from switchq.training.callbacks import SPNet
from switchq.training.module import SwitchableModule

ROOT = Path(__file__).parents[2]

BF16 = {"trainer": {"precision": "bf16-mixed"}, "dtype": "bfloat16"}

SIZES = {"135M": "smollm2-like", "360M": "smollm2-360m", "1.7B": "smollm2-1.7b"}

SHAPES |= {
    "smollm2-360m": LlamaConfig(
        vocab_size=49152, hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
        num_key_value_heads=5, max_position_embeddings=2048, tie_word_embeddings=True,
    ),
    "smollm2-1.7b": LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=2048, tie_word_embeddings=True,
    ),
}  # fmt: skip

STAGES: dict[str, list[dict[str, Any]]] = {
    "devices": [
        BF16 | {"name": "1 device"},
        BF16 | {"name": "2 devices, ddp", "devices": 2},
        BF16 | {"name": "2 devices, ddp, a batch each", "devices": 2, "batches": 2},
    ],
    "sharded": [BF16 | {"name": "2 devices, fsdp2", "devices": 2, "strategy": "fsdp2"}],
    "options": [
        {"name": "float32", "trainer": {}, "dtype": "float32"},
        BF16 | {"name": "bf16"},
        BF16 | {"name": "bf16, checkpointing", "model": {"gradient_checkpointing": True}},
    ],
    "compiled": [BF16 | {"name": "bf16, compiled", "model": {"compile": True}}],
    "sizes": [BF16 | {"name": name, "shapes": shapes} for name, shapes in SIZES.items()],
}
"""What is trained on random tokens: one row each."""

QUALITY: dict[str, list[str]] = {
    "quality-float32": [],
    "quality-bf16": ["--trainer.precision", "bf16-mixed"],
    "quality-compiled": ["--model.compile", "true"],
    "quality-compiled-bf16": ["--model.compile", "true", "--trainer.precision", "bf16-mixed"],
}
"""What `switchq fit --config configs/quickstart.yaml` is trained with."""

BARE = (
    "--model.grid", "Symmetric", "--model.grid.group_size", "null", "--model.rank", "null", "--model.width_lr", "null",
    "--model.adapter_start", "zero", "--model.shared_start", "zero", "--model.shared_rank", "0",
    "--model.shared_lr", "1",
)  # fmt: skip
"""The quickstart's model without its grid and starts."""


class Clock(Callback):
    """Times the batches after the first `warm`."""

    def __init__(self, warm: int) -> None:
        self.warm, self.seconds, self._began = warm, [], 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._began = self._now(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        self.seconds.append(self._now(pl_module) - self._began)

    @staticmethod
    def _now(module: Any) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def train(number: int, row: dict[str, Any], arguments: argparse.Namespace, folder: str, port: int) -> None:
    """Process `number`: train on random tokens; the first process writes what it measured to `folder`/row.json."""
    quiet()
    devices = row.get("devices", 1)
    if devices > 1:
        os.environ |= {"LOCAL_RANK": str(number), "NODE_RANK": "0", "WORLD_SIZE": str(devices)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1 if arguments.device == "cpu" else 8)
    if arguments.device == "cuda":
        torch.cuda.set_device(number)
    options = row.get("model", {}) | dict.fromkeys(arguments.on, True)
    module = SwitchableModule(f"{folder}/base", dtype=row["dtype"], bitmaps=["8"], **options)
    joint = arguments.batch * row.get("batches", 1)
    steps, generator = arguments.warm + arguments.steps, torch.Generator().manual_seed(number)
    shape = (steps, joint // devices, arguments.tokens)
    ids = torch.randint(module.model.config.vocab_size, shape, generator=generator)
    labels = ids.clone()
    labels[..., : arguments.tokens - arguments.labels] = IGNORED
    batches = [
        {"input_ids": one, "attention_mask": torch.ones_like(one), "labels": its} for one, its in zip(ids, labels)
    ]
    clock = Clock(arguments.warm)
    trainer = Trainer(
        accelerator="gpu" if arguments.device == "cuda" else "cpu", devices=devices,
        strategy=row.get("strategy", "ddp") if devices > 1 else "auto", max_steps=steps, logger=False,
        callbacks=[SPNet(["8", "4", "2"], distill=1.0), clock], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder, **row["trainer"],
    )  # fmt: skip
    reset_peak_memory(torch.device(arguments.device))
    trainer.fit(module, DataLoader(batches, batch_size=None))
    if number == 0:
        step = float(np.median(clock.seconds[arguments.warm :]))
        found = {
            "weights": sum(p.numel() for name, p in module.model.named_parameters() if "lora_" not in name),
            "step_s": step,
            "tokens_per_s": joint * arguments.tokens / step,
            "peak_mb": peak_memory(torch.device(arguments.device))[0],
        }
        Path(folder, "row.json").write_text(json.dumps(found))


def measured(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train in processes of their own, so that peaks of memory are those of this row."""
    with tempfile.TemporaryDirectory() as folder:
        save_random(row.get("shapes", arguments.shapes), row["dtype"], Path(folder, "base"))
        processes.spawn(train, (row, arguments, folder, find_free_network_port()), nprocs=row.get("devices", 1))
        return json.loads(Path(folder, "row.json").read_text())


def quality(options: list[str], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """F1 by bitmap after the quickstart's training with these options and this seed.

    Adapters start at nothing beside one scale a row, so that F1 is what training made of it. `weights` is a hash of the
    trained weights: rows of the same seed tell whether a device gives the same bits twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "switchq.cli", "fit", "--config", "configs/quickstart.yaml",
            "--trainer.accelerator", "gpu" if arguments.device == "cuda" else "cpu", "--trainer.devices", "1",
            "--trainer.default_root_dir", folder, "--trainer.limit_val_batches", "0", "--summary.compare", "false",
            "--model.bitmaps", "[16, 8, 4, 2]", "--schedule.bitmaps", "[8, 4, 2]", *BARE,
            "--trainer.max_steps", str(arguments.quality_steps), "--seed_everything", str(seed), *options,
        ]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (found,) = Path(folder).glob("lightning_logs/version_0/results.json")
        results = json.loads(found.read_text())
        seconds = time.perf_counter() - began
        last = found.with_name("checkpoints") / "last.ckpt"
        trained = torch.load(last, weights_only=True, map_location="cpu")["state_dict"]
    content = hashlib.sha256(b"".join(trained[name].numpy().tobytes() for name in sorted(trained)))
    figures = {one["bitmap"]: one["F1"] for one in results}
    return {"seed": seed, "F1": figures, "weights": content.hexdigest()[:16], "seconds": seconds}


def plan(rows: Sequence[dict[str, Any]], weights: float = 7e9) -> dict[str, float]:
    """What `weights` weights take, by straight lines through the rows of the stage `sizes`.

    Seconds a token and bytes are taken as a fixed part plus a part that grows with the weights, by least squares; what
    grows with depth alone (activations a block) is in the latter, as models get deeper and wider together.

    Returns:
        `seconds_per_token` of a step and `peak_mb`, at the batch that was measured.

    Raises:
        ValueError: fewer than two sizes.
    """
    sizes = {row["weights"]: row for row in rows if row["stage"] == "sizes"}
    if len(sizes) < 2:
        raise ValueError("an extrapolation needs rows of two sizes: run --stage sizes first")
    x = np.array([[1.0, size] for size in sizes])
    times = np.array([1 / row["tokens_per_s"] for row in sizes.values()])
    memory = np.array([row["peak_mb"] for row in sizes.values()])
    at = np.array([1.0, weights])
    return {
        "weights": weights,
        "seconds_per_token": float(at @ np.linalg.lstsq(x, times)[0]),
        "peak_mb": float(at @ np.linalg.lstsq(x, memory)[0]),
    }


def figures(stage: str, row: dict[str, Any], output: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a row of a stage comes to."""
    if stage == "plan":
        yield plan([json.loads(line) for line in output.read_text().splitlines()])
    elif stage in QUALITY:
        yield from (quality(QUALITY[stage], seed, arguments) for seed in arguments.seeds)
    else:
        yield measured(row, arguments)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure the stages that are asked for; returns the rows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--stage", nargs="+", choices=[*STAGES, *QUALITY, "plan"], required=True)
    options.add_argument("--output", default="scale.jsonl", help="rows are added to it")
    options.add_argument("--shapes", choices=sorted(SHAPES), default="smollm2-like", help="of all stages but sizes")
    options.add_argument("--names", nargs="+", default=None, help="only the rows of these names")
    options.add_argument("--batch", type=int, default=32, help="sequences a step, over all devices")
    options.add_argument("--tokens", type=int, default=512, help="a sequence")
    options.add_argument("--labels", type=int, help="tokens of a sequence that take a loss, the last; by default all")
    options.add_argument("--on", nargs="+", default=[], help="options of the model that all rows switch on")
    options.add_argument("--steps", type=int, default=20, help="that are timed; the figure is their median")
    options.add_argument("--warm", type=int, default=5, help="steps before the clock runs")
    options.add_argument("--quality-steps", type=int, default=120)
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the stages `quality`: a row each")
    arguments = options.parse_args(argv)
    arguments.labels = arguments.labels or arguments.tokens
    quiet()
    output, rows = Path(arguments.output), []
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    setting = {name: getattr(arguments, name) for name in ("batch", "tokens", "labels", "on", "steps", "shapes")}
    setting["torch"] = torch.__version__
    for stage in arguments.stage:
        for row in STAGES.get(stage, [{"name": stage}]):
            if arguments.names is not None and row["name"] not in arguments.names:
                continue
            for found in figures(stage, row, output, arguments):
                rows.append({"stage": stage, "name": row["name"], "device": device, **setting, **found})
                with output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
