"""auto-round: rounding and ranges learned block by block with signed gradients."""

import argparse

from auto_round import AutoRound
from dense import Tensors, block_linears, serve
from torch import Tensor, nn
from transformers import AutoTokenizer


def quantise(model: nn.Module, ids_NT: Tensor, arguments: argparse.Namespace) -> Tensors:
    """With the package's defaults but for the number of iterations and, on a CPU, one window a batch."""
    rounder = AutoRound(
        model,
        AutoTokenizer.from_pretrained(arguments.model),
        bits=arguments.bits,
        group_size=arguments.group,
        sym=False,
        iters=200 if arguments.iterations is None else arguments.iterations,
        batch_size=1 if arguments.device == "cpu" else 8,
        seqlen=ids_NT.shape[1],
        nsamples=len(ids_NT),
        dataset=list(ids_NT[:, None]),
        device_map=arguments.device,
    )
    rounder.quantize()
    return lambda: {f"{name}.weight": linear.weight for name, linear in block_linears(rounder.model).items()}


if __name__ == "__main__":
    serve("auto-round", quantise)
