"""What the peers that quantise a whole model share: options, the model and the calibration tokens, clocks, the answer.

The answer is `weights.safetensors`, the dense tensors that differ from the model's, and JSON with versions and seconds.
The seconds are those of quantising; loading, dequantising and saving are not counted.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

Tensors = Callable[[], dict[str, Tensor]]
"""Gives the dense tensors, by their names in the model's state."""


def serve(package: str, quantise: Callable[[nn.Module, Tensor, argparse.Namespace], Tensors]) -> None:
    """Read the options, quantise, write.

    Args:
        package: the distribution, for its version.
        quantise: called with the model in float32, token ids (N, T) and the options.
    """
    options = argparse.ArgumentParser()
    options.add_argument("--model", required=True, help="folder")
    options.add_argument("--bits", type=int, required=True)
    options.add_argument("--group", type=int, required=True, help="inputs that share a scale and a zero point")
    options.add_argument("--calibration", type=Path, required=True, help=".npy file of token ids (N, T)")
    options.add_argument("--method", default=None, help="which of the package's methods")
    options.add_argument("--iterations", type=int, default=None, help="of methods that learn")
    options.add_argument("--device", default="cpu", help="where to quantise")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=None)
    options.add_argument("--output", type=Path, required=True, help="JSON file; the weights go beside it")
    arguments = options.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    ids_NT = torch.from_numpy(np.load(arguments.calibration))
    torch.zeros(1, device=arguments.device)  # a GPU's start is no part of the time
    wall, cpu = time.perf_counter(), time.process_time()
    dense = quantise(model, ids_NT, arguments)
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    facts: dict[str, Any] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    tensors = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in dense().items()}
    save_file(tensors, arguments.output.parent / "weights.safetensors")
    versions = {name: version(name) for name in (package, "torch", "transformers")}
    arguments.output.write_text(json.dumps(facts | {"versions": versions}))


def block_linears(model: nn.Module) -> dict[str, nn.Module]:
    """The linears of the blocks, by name: all but the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    }
