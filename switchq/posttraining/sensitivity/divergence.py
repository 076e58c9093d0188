"""KL divergence of the final logits with one layer quantised from those of the full-precision model.

L x W forwards, but none from the start. While layer l of block k is quantised, the blocks before k still compute what
they compute in full precision; so the blocks are gone through in order, with only block k's full-precision input kept
(B, T, I), and each forward passes blocks 0 ... k-1 by and gives block k that input. That is exact, halves the work of
deep models, and holds one input and one set of reference log-probabilities whatever the depth.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.bitmap import FULL
from switchq.models import blocks_of, logits_at
from switchq.models.blocks import block_index, resumed, run_blocks
from switchq.models.inference import eval_mode
from switchq.nn import at, switch_layers
from switchq.parallel import split_sum
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity.kept import Summed
from switchq.posttraining.sensitivity.one_layer import layer_at

POSITIONS = 256
"""Positions of a batch at which distributions are compared, unless told otherwise; the reference is (N, V) float64."""


@torch.no_grad()
def divergences(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    bits: Sequence[int],
    *,
    adapters: bool = True,
    positions: int = POSITIONS,
    advance: Callable[[int], object] = lambda done: None,
    summed: Summed = split_sum,
) -> Tensor:
    """Mean KL(full precision || one layer quantised) of every layer at every width.

    Args:
        model: a switchable model; it is left as it was.
        batches: calibration batches.
        bits: W widths.
        adapters: whether adapters take part, on both sides.
        positions: most scored positions of a batch that are looked at; if there are more, so many spread evenly.
        advance: called after each forward with the number of blocks that it ran.
        summed: adds up over batches what each gives.

    Returns:
        (L, W) float64, in nats per position. What is not finite is inf.
    """
    layers, depth = switch_layers(model), len(blocks_of(model))
    of_block: dict[int | None, list[int]] = {}
    for index, layer in enumerate(layers):
        of_block.setdefault(block_index(model, layer), []).append(index)

    def of_batch(batch: Batch) -> tuple[Tensor, int]:
        sums_LW = torch.zeros(len(layers), len(bits), dtype=torch.float64, device=model.device)
        batch = batch.to(model.device)
        where_N = spread(batch.scored_N, positions)
        reference_NV = F.log_softmax(logits_at(model, batch.inputs, where_N).double(), -1)
        advance(depth)
        start: tuple[int, Tensor | None] = (0, None)
        for block in [None, *range(depth)]:
            for index in of_block.get(block, ()):
                for place, width in enumerate(bits):
                    with layer_at(layers[index], width, adapters), resumed(model, *start):
                        logits_NV = logits_at(model, batch.inputs, where_N)
                    sums_LW[index, place] = summed_kl(reference_NV, logits_NV)
                    advance(depth - start[0])
            if block is not None and block + 1 < depth:
                start = block + 1, run_blocks(model, batch.inputs, *start, last=block)
                advance(1)
        return sums_LW.cpu(), len(where_N)

    with eval_mode(model), at(model, FULL, adapters):
        sums_LW, count = summed(of_batch, list(batches))
    return (sums_LW / max(count, 1)).nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(min=0)


def resumed_blocks(model: PreTrainedModel, bits: Sequence[int]) -> int:
    """Block forwards that a batch takes."""
    depth = len(blocks_of(model))
    starts = [block_index(model, layer) or 0 for layer in switch_layers(model)]
    return depth + depth - 1 + len(bits) * sum(depth - start for start in starts)


def spread(where_N: Tensor, most: int) -> Tensor:
    """At most `most` of the positions, evenly spread over them."""
    if len(where_N) <= most:
        return where_N
    return where_N[torch.linspace(0, len(where_N) - 1, most, device=where_N.device).round().long()]


def summed_kl(reference_NV: Tensor, logits_NV: Tensor, rows: int = 32) -> Tensor:
    """Sum over positions of KL(reference || softmax of the logits), in nats.

    In float64: at 8 bits the divergence is second order in differences that float32's rounding of log-probabilities
    would drown.

    Args:
        reference_NV: log-probabilities, float64.
        logits_NV: logits.
        rows: positions that are looked at together.
    """
    total = torch.zeros((), dtype=torch.float64, device=logits_NV.device)
    for reference_RV, logits_RV in zip(reference_NV.split(rows), logits_NV.split(rows), strict=True):
        log_RV = F.log_softmax(logits_RV.double(), -1)
        total += F.kl_div(log_RV, reference_RV, reduction="sum", log_target=True)
    return total
