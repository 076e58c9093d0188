"""MSE and MAE between a layer's full-precision and its quantised output, of all layers and widths from one forward.

In a full-precision forward every layer sees its full-precision input x, which is all that its quantised output depends
on. A hook on each layer therefore computes, right after the layer has run,

    error_b = (W x + s B A x) - (Q_b(W) x + s_b B_b A_b x)        A, B: the adapter of 16 bits; A_b, B_b: that of b bits

for each width b, adds |error| and error^2 to running sums, and lets go of it: 1 forward and W more products a layer,
where a forward per pair takes L x W forwards. Of a layer's outputs no more than two are alive beyond the forward's own.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.bitmap import FULL
from switchq.models import blocks_of, logits_at
from switchq.models.blocks import block_index
from switchq.models.inference import eval_mode
from switchq.models.logits import hidden_states
from switchq.nn import SwitchLayer, at, switch_layers
from switchq.parallel import split_sum
from switchq.posttraining.calibration import Batch
from switchq.posttraining.sensitivity.kept import Summed
from switchq.posttraining.sensitivity.one_layer import layer_at


@torch.no_grad()
def output_errors(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    bits: Sequence[int],
    *,
    adapters: bool = True,
    advance: Callable[[int], object] = lambda done: None,
    summed: Summed = split_sum,
) -> tuple[Tensor, Tensor]:
    """Mean squared and mean absolute error of every layer's output at every width.

    Args:
        model: a switchable model; it is left as it was.
        batches: calibration batches.
        bits: W widths.
        adapters: whether adapters take part, on both sides.
        advance: called after each batch with the number of block forwards that it was worth.
        summed: adds up over batches what each gives.

    Returns:
        MSE and MAE, (L, W) float64 each, means over real tokens and output features. A quantised head is compared at
        the scored positions only. What is not finite is inf.
    """
    layers = switch_layers(model)
    sums_LW2, counts = torch.empty(0), [0]
    outside = any(block_index(model, layer) is None for layer in layers)
    cost = len(blocks_of(model)) * (1 + len(bits))
    state: dict[str, Tensor] = {}

    def hook_of(index: int, layer: SwitchLayer) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            x_NI, full_NO = _tokens(arguments[0], output, state["real_N"], state["positions"])
            counts[index] += full_NO.numel()
            for place, width in enumerate(bits):
                with layer_at(layer, width, adapters):
                    error_NO = module.forward(x_NI).float() - full_NO
                sums_LW2[index, place, 0] += error_NO.square().sum(dtype=torch.float64)
                sums_LW2[index, place, 1] += error_NO.abs().sum(dtype=torch.float64)

        return hook

    def of_batch(batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal sums_LW2, counts, state
        sums_LW2 = torch.zeros(len(layers), len(bits), 2, dtype=torch.float64, device=model.device)
        counts = [0] * len(layers)
        batch = batch.to(model.device)
        state = {"real_N": batch.real_N, "positions": batch.inputs["input_ids"].flatten()}
        if outside:  # the head may be among them
            logits_at(model, batch.inputs, batch.scored_N)
        else:
            hidden_states(model, batch.inputs)
        advance(cost)
        return sums_LW2.cpu(), torch.tensor(counts, dtype=torch.float64)

    with eval_mode(model), at(model, FULL, adapters), ExitStack() as hooks:
        for index, layer in enumerate(layers):
            module = cast(nn.Module, layer.lora or layer.linear)
            hooks.callback(module.register_forward_hook(hook_of(index, layer)).remove)
        sums_LW2, counts_L = summed(of_batch, list(batches))
    means_LW2 = sums_LW2 / counts_L[:, None, None]
    means_LW2 = means_LW2.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return means_LW2[..., 0], means_LW2[..., 1]


def _tokens(x: Tensor, output: Tensor, real_N: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output at real tokens, one row each: linears have (..., I) -> (..., O), embeddings ids -> (..., O)."""
    x, full_NO = x.flatten(0, output.dim() - 2), output.flatten(0, -2)
    if len(full_NO) == len(positions) > len(real_N):
        x, full_NO = x.index_select(0, real_N), full_NO.index_select(0, real_N)
    return x, full_NO.float()
