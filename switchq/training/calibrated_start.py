"""Adapters that start where they undo most of what rounding does to the outputs of their layers, given real inputs.

LoftQ takes up the largest part of the weights' error; a layer's outputs suffer from the part that its inputs meet. Some
batches of training data run through the unquantised model, the Gram matrix E[x x^T] of every layer's input x is
gathered, and each width's adapter starts at QERA's closed form (`switchq.nn.starts.start_at_residual`). Before it
the shared adapter may start at what the narrowest width rounds worst; all widths then round what is left of the weights
(`start_shared`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.bitmap import FULL
from switchq.models import architecture_of
from switchq.models.inference import eval_mode
from switchq.models.logits import hidden_states
from switchq.nn import QuantLinear, at, get_switch
from switchq.nn.adapters import SHARED, TAKEN, width_of
from switchq.nn.starts import Metric, start_at_residual, start_shared

Group = tuple[LoraLayer, ...]
"""Layers that read the same input."""


@torch.no_grad()
def start_from_inputs(
    model: PreTrainedModel,
    batches: Sequence[dict[str, Tensor]],
    memory: int = 2 * 1024**3,
    joint: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    alike: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> list[str]:
    """Start the adapters of all widths that are still at zero from the inputs that `batches` give their layers.

    The shared adapter starts first where the model has a place for what that takes out of the weights.

    Args:
        model: a switchable model with adapters.
        batches: right-padded batches of `input_ids` and `attention_mask` (B, T).
        memory: bytes of Gram matrices that are held at a time; where they do not fit, the batches run through the model
            several times.
        joint: adds a tensor up over the devices that each have a share of the batches.
        alike: gives all devices a tensor as the first has it.

    Returns:
        The names of the adapters that were started; none if the adapters have left zero before, as they have in a
        resumed run.
    """
    groups = groups_of(model)
    names = [name for name in next(iter(groups))[0].lora_B if width_of(f".{name}.") is not None] if groups else []
    names = [name for name in names if not any(_weight(layer, name).any() for group in groups for layer in group)]
    narrowest = min((bits for bits in get_switch(model).layers[0].widths if bits != FULL), default=FULL)
    shared = any(TAKEN in layer.lora_A and not _is_taken_out(layer) for group in groups for layer in group)
    started = [SHARED] * shared + names
    for some in _sweeps(groups, memory) if started and batches else ():
        for group, gram_II in zip(some, grams(model, some, batches, joint), strict=True):
            metric = Metric.of(gram_II)
            for layer in group:
                if shared:
                    start_shared(layer, narrowest, metric, alike)
                for name in names:
                    start_at_residual(layer, name, metric)
    return started


def groups_of(model: PreTrainedModel) -> list[Group]:
    """The layers with adapters of a switchable model, by the input that they read: as many groups in every block."""
    layers = {layer.name: layer.lora for layer in get_switch(model).layers}
    architecture = architecture_of(model.config)
    return [
        tuple(cast(LoraLayer, layers[f"{architecture.blocks}.{index}.{linear}"]) for linear in read.linears)
        for index in range(len(cast(nn.ModuleList, model.get_submodule(architecture.blocks))))
        for read in architecture.inputs(model.config)
        if layers[f"{architecture.blocks}.{index}.{read.linears[0]}"] is not None
    ]


def _is_taken_out(layer: LoraLayer) -> bool:
    return cast(QuantLinear, layer.get_base_layer()).is_taken_out


def _weight(layer: LoraLayer, name: str) -> Tensor:
    return cast(nn.Linear, layer.lora_B[name]).weight


def _sweeps(groups: Iterable[Group], memory: int) -> Iterator[list[Group]]:
    """As many groups at a time as `memory` holds, and at least one."""
    some: list[Group] = []
    held = 0
    for group in groups:
        size = 4 * cast(Tensor, group[0].get_base_layer().weight).shape[1] ** 2
        if some and held + size > memory:
            yield some
            some, held = [], 0
        some.append(group)
        held += size
    if some:
        yield some


def grams(
    model: PreTrainedModel,
    groups: Sequence[Group],
    batches: Sequence[dict[str, Tensor]],
    joint: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> list[Tensor]:
    """E[x x^T] (I, I), float32, over the real tokens of all batches, of the input of each group."""
    sums: dict[int, Tensor] = {}
    tokens = 0
    real_N = torch.empty(0)

    def hook_of(index: int) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            x_NI = arguments[0].flatten(0, -2)[real_N].float()
            sums[index] = sums[index].addmm_(x_NI.T, x_NI) if index in sums else x_NI.T @ x_NI

        return hook

    hooks = [cast(nn.Module, group[0]).register_forward_pre_hook(hook_of(index)) for index, group in enumerate(groups)]
    try:
        with eval_mode(model), at(model, FULL, adapters=False):
            for batch in batches:
                batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
                real_N = batch["attention_mask"].flatten().nonzero().squeeze(-1)
                tokens += len(real_N)
                hidden_states(model, {"input_ids": batch["input_ids"]})
    finally:
        for hook in hooks:
            hook.remove()
    count = joint(torch.tensor(float(tokens), device=model.device))
    return [joint(sums[index]) / count for index in range(len(groups))]
