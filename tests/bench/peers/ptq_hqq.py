"""The hqq package: every block linear with `HQQLinear` and the package's own settings for the width.

Groups lie along a row, as in switchq (`axis=1`). Scales and zero points are kept in the compute type: by default the
package's own, float16, which is as many bits as switchq's have. `--method float32` keeps them in 32.
"""

import argparse

import torch
from dense import Tensors, block_linears, serve
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from torch import Tensor, nn


def quantise(model: nn.Module, ids_NT: Tensor, arguments: argparse.Namespace) -> Tensors:
    """Needs no calibration."""
    dtype = torch.float32 if arguments.method == "float32" else torch.float16
    config = BaseQuantizeConfig(nbits=arguments.bits, group_size=arguments.group, axis=1)
    layers = {
        name: HQQLinear(linear, config, compute_dtype=dtype, device=arguments.device, del_orig=False)
        for name, linear in block_linears(model).items()
    }
    return lambda: {f"{name}.weight": layer.dequantize() for name, layer in layers.items()}


if __name__ == "__main__":
    serve("hqq", quantise)
