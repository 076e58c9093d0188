"""Squared weight error weighted by the empirical Fisher information.

To second order, and with the Fisher in place of the Hessian, rounding a layer's weight raises the loss of the
calibration set by half of

    score_b = sum_ij F_ij (W - Q_b(W))_ij^2        F = mean over samples of (d log p(answer | prompt) / dW)^2

the diagonal form of HAWQ-V2's criterion (Dong et al. 2019, arXiv:1911.03852), which multiplies the mean Hessian trace
of a layer with its squared weight error; here each weight has its own curvature, as in optimal brain damage (LeCun et
al. 1990) and SqueezeLLM (Kim et al. 2023, arXiv:2306.07629), and answers are the gold ones ("empirical"). The weight
error is that of the rounded weight alone: adapters shift the point at which the gradient is taken, no more.

F is never stored and no `requires_grad` is changed. The output of each linear passes through a tap, an identity whose
backward holds both factors of the gradient, x (B, T, I) and g (B, T, O): each sample's gradient G = g^T x is formed,
squared, multiplied with the squared errors and dropped. Blocks are checkpointed, so that what grows with the depth is
one block input (B, T, I) a block.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from switchq.bitmap import FULL
from switchq.models import blocks_of, logits_at
from switchq.models.blocks import Forward, block_index, wrapped_blocks
from switchq.models.inference import eval_mode
from switchq.nn import SwitchLayer, at, switch_layers
from switchq.parallel import split_sum
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity.kept import Summed
from switchq.posttraining.sensitivity.one_layer import layer_at

Record = Callable[[Tensor, Tensor], None]
"""Takes a linear's input (B, T, I) and the gradient (B, T, O) of its output."""

PASSES = 4
"""What a batch costs, in forwards: one, one again when blocks are recomputed, and a backward worth two."""


def fisher_scores(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    bits: Sequence[int],
    *,
    adapters: bool = True,
    advance: Callable[[int], object] = lambda done: None,
    summed: Summed = split_sum,
) -> Tensor:
    """sum(F * (W - Q_b(W))^2) of every layer at every width, F the empirical Fisher information at 16 bits.

    Args:
        model: a switchable model; it is left as it was.
        batches: calibration batches; each sample has the loss -log p(its scored tokens), summed over them.
        bits: W widths.
        adapters: whether adapters take part in the full-precision model.
        advance: called after each batch with the number of block forwards that it was worth.
        summed: adds up over batches what each gives.

    Returns:
        (L, W) float64, in nats per sample. What is not finite is inf.
    """
    layers = switch_layers(model)
    sums_LW = torch.empty(0)
    outside = {index: layer for index, layer in enumerate(layers) if block_index(model, layer) is None}
    depth, samples = len(blocks_of(model)), 0

    def add(index: int, squared_OI: Tensor) -> None:
        """Count the squared gradients of some samples, summed over the samples."""
        layer = layers[index]
        for place, width in enumerate(bits):
            with torch.no_grad(), layer_at(layer, width, adapters) as rounded_OI:
                error_OI = layer.linear.weight.float() - rounded_OI.float()
            sums_LW[index, place] += (squared_OI * error_OI.square()).sum(dtype=torch.float64)

    def record_of(index: int) -> Record:
        def record(x: Tensor, gradient: Tensor) -> None:
            x_BTI, gradient_BTO = (one.reshape(samples, -1, one.shape[-1]).float() for one in (x, gradient))
            squared_OI = torch.zeros_like(layers[index].linear.weight, dtype=torch.float32)
            for x_TI, gradient_TO in zip(x_BTI, gradient_BTO, strict=True):
                squared_OI += (gradient_TO.T @ x_TI).square_()
            add(index, squared_OI)

        return record

    def of_batch(batch: Batch) -> tuple[Tensor, int]:
        nonlocal sums_LW, samples
        sums_LW = torch.zeros(len(layers), len(bits), dtype=torch.float64, device=model.device)
        batch = batch.to(model.device)
        for part in batch.samples() if outside else [batch]:
            samples = len(part)
            with ExitStack() as stack, torch.enable_grad():
                for index, layer in enumerate(layers):
                    if index not in outside:
                        stack.callback(layer.linear.register_forward_hook(_tap(record_of(index))).remove)
                leaves = [stack.enter_context(_as_leaf(layer)) for layer in outside.values()]
                root = stack.enter_context(_rooted(model))
                loss = F.cross_entropy(
                    logits_at(model, part.inputs, part.scored_N).float(), part.targets_N, reduction="sum"
                )
                _, *gradients = torch.autograd.grad(loss, [root, *leaves])
            for index, gradient in zip(outside, gradients, strict=True):
                add(index, gradient.float().square())
        advance(PASSES * depth)
        return sums_LW.cpu(), len(batch)

    with eval_mode(model), at(model, FULL, adapters):
        sums_LW, count = summed(of_batch, list(batches))
    return (sums_LW / max(count, 1)).nan_to_num(nan=torch.inf, posinf=torch.inf)


class _Tap(torch.autograd.Function):
    """The identity; its backward tells what the linear's input and its output's gradient are."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, record: Record) -> Tensor:
        ctx.save_for_backward(x)
        ctx.record = record
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        ctx.record(x, gradient)
        return gradient, None, None


def _tap(record: Record) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    return lambda module, arguments, output: _Tap.apply(output, arguments[0], record)


@contextmanager
def _rooted(model: PreTrainedModel) -> Iterator[Tensor]:
    """Inside, the input of the first block depends on the scalar 0 that is yielded, and each block is checkpointed.

    A gradient with respect to that scalar passes through every tap and writes no parameter's `.grad`.
    """
    root = torch.zeros((), dtype=model.dtype, device=model.device, requires_grad=True)

    def wrap(index: int, own: Forward) -> Forward:
        def forward(hidden_BTI: Tensor, *rest: Any, **options: Any) -> Tensor:
            if index == 0:
                hidden_BTI = hidden_BTI + root
            output: Tensor = checkpoint(
                own, hidden_BTI, *rest, use_reentrant=False, preserve_rng_state=False, **options
            )
            return output

        return forward

    with wrapped_blocks(model, wrap):
        yield root


@contextmanager
def _as_leaf(layer: SwitchLayer) -> Iterator[Tensor]:
    """Inside, a layer reads its weight from the leaf that is yielded; a tied embedding reads the same one."""
    leaf_OI = layer.linear.weight.detach().requires_grad_()
    layer.linear.__dict__["effective_weight"] = lambda: leaf_OI
    try:
        yield leaf_OI
    finally:
        del layer.linear.__dict__["effective_weight"]
