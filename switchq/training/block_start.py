"""Adapters trained block by block before the run proper (ApiQ, Liao et al. 2024, arXiv:2402.05147, the block-wise one).

A layer's best start on its own (`switchq.training.calibrated_start`) takes the inputs that the float model gives, and
knows of no other layer. Here all that a block trains for a width alone, its adapters and, if they are learned, its
scales, learns together, from the given start: the block gets what the blocks before it give at this width, with what
they have learned, and is to give what the float model has there. Step t of n of Adam goes down E of
`switchq.models.block_ends` on one batch, drawn in a new order each time through, at the rate r (1 - t / n). A block
that is no better for it, over all batches, keeps the start.

Apart from ApiQ: the start is not zero, a token's error counts in the length that the token comes in with, and ranges
are only learned where the run learns scales.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.bitmap import FULL
from switchq.models import blocks_of
from switchq.models.block_ends import Ends, in_turn
from switchq.models.blocks import Forward, wrapped_blocks
from switchq.models.inference import eval_mode
from switchq.models.logits import hidden_states
from switchq.nn import at
from switchq.nn.adapters import width_of
from switchq.progress import progress_bar

WIDEST = 4
"""Above it rounding takes too little for training to bring back: a bfloat16 product loses as much."""

RATE = 1e-3
"""Adam's, in the first step."""

Joint = Callable[[Tensor], Tensor]
"""Adds a tensor up over the devices that each have a share of every batch."""


@torch.no_grad()
def start_by_block(
    model: PreTrainedModel,
    batches: Sequence[dict[str, Tensor]],
    widths: Sequence[int],
    steps: int,
    joint: Joint = lambda tensor: tensor,
    progress: bool = False,
) -> dict[int, list[tuple[float, float]]]:
    """Train what the blocks have for each of these widths alone, in place.

    Args:
        model: a switchable model with adapters, on its device.
        batches: right-padded batches of `input_ids` and `attention_mask` (B, T); their hidden states at one block, of
            the float model and of a width, are what is kept beside the model.
        widths: those above `WIDEST` are left as they are.
        steps: of Adam, for each block and width.
        joint: see `Joint`; what is trained must be alike on all devices.
        progress: show a bar.

    Returns:
        Width -> E over all batches before and after, for every block.
    """
    chosen = [bits for bits in widths if bits <= WIDEST] if batches else []
    blocks = blocks_of(model)
    found: dict[int, list[tuple[float, float]]] = {bits: [] for bits in chosen}
    with eval_mode(model), progress_bar(progress and bool(chosen)) as bar:
        task = bar.add_task("adapters, block by block", total=len(chosen) * len(blocks))
        arrivals = [_arrival(model, batch) for batch in batches] if chosen else []
        for bits in chosen:
            inputs = wanted = [arrival.first_BTI for arrival in arrivals]
            for index, block in enumerate(blocks):
                calls = [arrival.calls[index] for arrival in arrivals]
                with at(model, FULL, adapters=False):
                    wanted = [block(one, *rest, **options) for one, (rest, options) in zip(wanted, calls, strict=True)]
                ends = [
                    Ends(input_BTI, wanted_BTI, *call, arrival.real_N)
                    for input_BTI, wanted_BTI, call, arrival in zip(inputs, wanted, calls, arrivals, strict=True)
                ]
                with at(model, bits):
                    found[bits].append(_train(block, bits, ends, steps, joint))
                    inputs = [block(one.input_BTI, *one.rest, **one.options) for one in ends]
                bar.advance(task)
    return found


def _train(block: nn.Module, bits: int, batches: Sequence[Ends], steps: int, joint: Joint) -> tuple[float, float]:
    """Train what is of `bits` alone in a block that runs at it; returns E over all batches before and after."""
    trained = [
        parameter for name, parameter in block.named_parameters() if width_of(name) == bits and parameter.requires_grad
    ]
    device = trained[0].device if trained else batches[0].input_BTI.device
    tokens = [joint(torch.tensor(float(len(batch.real_N)), device=device)) for batch in batches]

    def error(index: int) -> Tensor:
        """This device's part of E over a batch."""
        batch = batches[index]
        if not len(batch.real_N):  # a mean of nothing is not a number
            return torch.zeros((), device=device)
        return batch.error(block, device) * (len(batch.real_N) / tokens[index])

    def whole() -> float:
        errors = [joint(error(index)) * tokens[index] for index in range(len(batches))]
        return float(torch.stack(errors).sum() / torch.stack(tokens).sum())

    before = whole()
    if not trained:
        return before, before
    start = [parameter.detach().clone() for parameter in trained]
    optimiser = torch.optim.Adam(trained, lr=RATE)
    for step, index in zip(range(steps), in_turn(len(batches)), strict=False):
        with torch.enable_grad():
            found = error(index)
        gradients = torch.autograd.grad(found, trained) if found.requires_grad else map(torch.zeros_like, trained)
        flat = joint(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = flat.split([parameter.numel() for parameter in trained])
        for parameter, part in zip(trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.step()
    optimiser.zero_grad()
    after = whole()
    if not after < before:
        for parameter, value in zip(trained, start, strict=True):
            parameter.copy_(value)
        return before, before
    return before, after


@dataclass(frozen=True)
class _Arrival:
    """A batch as it comes to the first block.

    Attributes:
        first_BTI: its input.
        calls: what else each block is called with, by position and by name.
        real_N: flattened positions of real tokens.
    """

    first_BTI: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    real_N: Tensor


def _arrival(model: PreTrainedModel, batch: dict[str, Tensor]) -> _Arrival:
    inputs: list[Tensor] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def pass_by(index: int, own: Forward) -> Forward:
        def forward(hidden_BTI: Tensor, *rest: Any, **options: Any) -> Tensor:
            inputs.append(hidden_BTI)
            calls.append((rest, options))
            return hidden_BTI

        return forward

    with wrapped_blocks(model, pass_by):
        hidden_states(model, {"input_ids": batch["input_ids"].to(model.device)})
    return _Arrival(inputs[0], calls, batch["attention_mask"].to(model.device).flatten().nonzero().squeeze(-1))
