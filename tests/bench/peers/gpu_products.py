"""Products of GemLite and torchao on a GPU, beside float16's in the same process: microseconds, as JSON lines.

    python gpu_products.py --peer gemlite --sizes 4096x4096 4800x1600 --batches 1 32

Weights are random and so many that no cache holds them; the calls are captured in one CUDA graph, as switchq's are in
`bench_artifact_cuda.py`. Groups of 128 columns, or of 64 where 128 do not divide a row.
"""

import argparse
import importlib.metadata
import json
from statistics import median

import torch
from torch import nn

COLD = 160e6
"""Bytes of weights that are gone through in turn."""

WIDTHS = {"gemlite": (8, 4, 2), "torchao": (8, 4)}


def gemlite(outputs, inputs, bits):
    """One of GemLite's layers, float16."""
    from gemlite.helper import A16Wn

    codes = torch.randint(0, 2**bits, (outputs, inputs), device="cuda").to(torch.uint8)
    groups = outputs * inputs // group_size(inputs)
    scale = torch.rand(groups, 1, device="cuda").half() / 2**bits
    zero = torch.full_like(scale, 2 ** (bits - 1))
    return A16Wn(device="cuda").from_weights(codes, scale, zero, bits, group_size(inputs))


def torchao(outputs, inputs, bits):
    """One of torchao's layers: 4 bits as tinygemm packs them, in bfloat16, which it asks for; 8 bits a scale a row."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=False, device="cuda", dtype=torch.bfloat16))
    packing = {"int4_packing_format": "tile_packed_to_4d", "set_inductor_config": False}
    four = Int4WeightOnlyConfig(group_size=group_size(inputs), **packing) if bits == 4 else None
    quantize_(layer, four or Int8WeightOnlyConfig(set_inductor_config=False))
    return layer


def group_size(inputs):
    """Columns that share a scale."""
    return 128 if inputs % 128 == 0 else 64


def microseconds(layers, x):
    """Of one call, captured in a graph and replayed; the median of seven."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for layer in layers[:3]:
            layer(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in layers:
            layer(x)
    times = []
    for _ in range(9):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(layers))
    return median(times[2:])


@torch.no_grad()
def main():
    """Measure what the options name."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--peer", choices=tuple(WIDTHS), required=True)
    options.add_argument("--sizes", nargs="+", default=["4096x4096", "4800x1600"], help="OxI")
    options.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    arguments = options.parse_args()
    make = {"gemlite": gemlite, "torchao": torchao}[arguments.peer]
    dtype = torch.bfloat16 if arguments.peer == "torchao" else torch.float16
    version = importlib.metadata.version(arguments.peer)
    for size in arguments.sizes:
        outputs, inputs = map(int, size.split("x"))
        for bits in (16, *WIDTHS[arguments.peer]):
            copies = max(3, min(48, round(COLD / (outputs * inputs * bits / 8))))
            if bits == 16:
                layers = [nn.Linear(inputs, outputs, bias=False, device="cuda", dtype=dtype) for _ in range(copies)]
            else:
                layers = [make(outputs, inputs, bits) for _ in range(copies)]
            for batch in arguments.batches:
                us = microseconds(layers, torch.randn(batch, inputs, device="cuda", dtype=dtype))
                row = {"peer": arguments.peer, "version": version, "size": size, "bits": bits, "batch": batch, "us": us}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
