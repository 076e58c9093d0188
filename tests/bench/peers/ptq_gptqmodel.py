"""gptqmodel's GPTQ: asymmetric groups of all block linears, the package's defaults but for what switchq's has too.

The package reads the model's folder itself, which takes about a second and is in its time; so is packing the codes.
"""

import argparse
import os

import torch
from dense import Tensors, serve
from torch import Tensor, nn

os.environ.setdefault(
    "GPTQMODEL_CPU_WORKERS", "2"
)  # it wants two, but counts half the cores, of which there may be two

from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def quantise(model: nn.Module, ids_NT: Tensor, arguments: argparse.Namespace) -> Tensors:
    """Columns by falling activation with static groups, a damping of 0.01."""
    config = QuantizeConfig(
        bits=arguments.bits,
        group_size=arguments.group,
        sym=False,
        format="gptq_v2",
        desc_act=True,
        static_groups=True,
        damp_percent=0.01,
        device=arguments.device,
        offload_to_disk=False,
    )
    made = GPTQModel.load(arguments.model, config, dtype=torch.float32)
    rows = [{"input_ids": ids_T, "attention_mask": torch.ones_like(ids_T)} for ids_T in ids_NT[:, None]]
    made.quantize(rows, batch_size=1, backend=BACKEND.TORCH)
    packed = {name: module for name, module in made.model.named_modules() if hasattr(module, "dequantize_weight")}
    return lambda: {f"{name}.weight": module.dequantize_weight().T for name, module in packed.items()}


if __name__ == "__main__":
    serve("gptqmodel", quantise)
