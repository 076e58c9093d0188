"""Memory that quantisation takes beside the weights, at two depths: what waits between blocks is one block's inputs.

Each depth runs in a process of its own. On a CPU the figure is the rise of the peak resident set above what was
resident when the model was loaded (Linux only); on a GPU it is the peak of what PyTorch has allocated beside the
weights, with the model on the CPU and one block on the GPU at a time.

    python tests/bench/bench_ptq_memory.py --device cpu --method gptq
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from sidebyside import machine, parser, prepare
from subjects import SHAPES, quiet
from transformers import AutoModelForCausalLM

from switchq.data.batches import TrainingCollator
from switchq.data.text import window_example
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, load_methods, quantise

STATUS = Path("/proc/self/status")

ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc gives freed tensors back at once, so that the resident set is what is in use, not what was."""


def main(argv: list[str] | None = None) -> float:
    """Measure both depths and print; returns the ratio of the deeper one's memory to the other's."""
    options = parser(__doc__)
    options.add_argument(
        "--shapes", choices=("gpt2", "gpt2-mini", "toy"), default="gpt2-mini", help="of a random model"
    )
    options.add_argument("--depths", type=int, nargs=2, default=[4, 24], help="layers")
    options.add_argument("--method", choices=sorted(load_methods()), default="gptq", help="to quantise with")
    options.add_argument("--samples", type=int, default=32, help="calibration windows")
    options.add_argument("--length", type=int, default=512, help="tokens in a window")
    options.add_argument("--blocks_at_once", type=int, default=1, help="blocks on the device at a time")
    options.add_argument("--depth", type=int, default=None, help=argparse.SUPPRESS)
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    if arguments.depth is not None:
        print(json.dumps(measure(arguments)))
        return 0.0
    given = sys.argv[1:] if argv is None else argv
    found = {}
    for depth in arguments.depths:
        command = [sys.executable, __file__, *given, "--depth", str(depth)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout.splitlines()
        found[depth] = json.loads(lines[-1])
        print(
            f"{depth:3d} layers: {found[depth]['weights_mb']:8.1f} MB of weights, {found[depth]['mb']:8.1f} MB beside"
        )
    shallow, deep = (found[depth]["mb"] for depth in arguments.depths)
    print(f"ratio {deep / shallow:.3f}")
    if arguments.output:
        content = {"depths": found, "ratio": deep / shallow, "machine": machine(arguments.device)}
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")
    return deep / shallow


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """MB of the weights, and MB beside them at the peak."""
    config = copy.deepcopy(SHAPES[arguments.shapes])
    config.n_layer = arguments.depth
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, config.vocab_size, (arguments.samples, arguments.length)).tolist()
    collate = TrainingCollator(0)
    batches = [
        Batch.of(collate([window_example(one) for one in ids[at : at + 4]])) for at in range(0, arguments.samples, 4)
    ]
    setting = Setting(bits=4, group_size=None, blocks_at_once=arguments.blocks_at_once)
    weights = sum(parameter.numel() * 4 for parameter in model.parameters()) / 1e6
    before = _start_of_peak()
    record = quantise(
        model, load_methods()[arguments.method], setting, batches, device=torch.device(arguments.device), progress=False
    )
    peak = record.peak_memory_mb if arguments.device == "cuda" else _status("VmHWM") - before
    return {"weights_mb": weights, "mb": peak}


def _start_of_peak() -> float:
    """Start a new peak of the resident set; returns what is resident now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
