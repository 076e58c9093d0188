"""The door: block linears turn into `QuantLinear`, adapters go in, a switch goes on, and a model is switchable."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.bitmap import FULL, check_width
from switchq.errors import UserError
from switchq.models.load import architecture_of, blocks_of
from switchq.models.weights import weight_view
from switchq.nn import QuantEmbedding, QuantLinear, add_adapters, attach_switch, switch_layers
from switchq.nn.adapters import adapter_configs
from switchq.nn.norm import SwitchedNorm, is_own_norm
from switchq.nn.starts import SharedStart, Start, start_loftq
from switchq.quant import Grid, Symmetric

Extra = Literal["head", "embeddings"]


def make_switchable(
    model: PreTrainedModel,
    bits: Sequence[int] = (8, 4, 2),
    grid: Grid = Symmetric(),
    *,
    adapters: bool = True,
    rank: Mapping[int, int] = {},
    alpha: Mapping[int, int] = {},
    shared_rank: int = 0,
    dropout: float = 0.0,
    start: Start = "zero",
    shared_start: SharedStart = "zero",
    extra: Sequence[Extra] = (),
    train_base: bool = False,
    learn_scales: bool = False,
    own_norms: bool = False,
    fit_on: torch.device | None = None,
) -> PreTrainedModel:
    """Make `model` switchable, in place.

    Args:
        model: a causal language model of a supported architecture.
        bits: the widths to prepare and to give an adapter each.
        grid: where weights are rounded to.
        adapters: whether to add LoRA adapters.
        rank: width -> LoRA rank; 16, 32 and 64 at 8, 4 and 2 bits by default. 0 for none
            where an adapter or a trained base is shared.
        alpha: width -> LoRA alpha; twice the rank by default.
        shared_rank: rank of an adapter that runs at every width beside the width's own; 0 for none.
        dropout: LoRA dropout.
        start: how the adapters of widths start, see `switchq.nn.starts`; those that need data start at zero here.
        shared_start: `qera` makes room for the start of the shared adapter, which needs data and takes what it starts
            with out of the weights, see `switchq.training.calibrated_start`; weights are not rounded before that.
        extra: quantise the `head` and the `embeddings` too. A tied pair is one tensor and one entry of the bitmap, and
            has to be named in full.
        train_base: leave the block linears' own weights trainable, shared by all widths (straight-through).
        learn_scales: make the scales of every width in `bits` trainable.
        own_norms: give every width a trainable copy of the norms that block linears read, see `switchq.nn.norm`.
        fit_on: the device that fits the grids, one linear at a time; that of the weights by default. A search for
            scales takes a GPU seconds and a CPU a minute for 135 million weights; of two candidates that are equally
            good to rounding errors, they may choose different ones.

    Returns:
        The same model, at 16 bits.

    Raises:
        UserError: a width out of range or named twice, an unsupported architecture, a group size that does not divide a
            row, an unknown extra, one half of a tied pair, norms of their own where linears read none, a start of a
            shared adapter that is not there.
    """
    widths = [check_width(width) for width in bits]
    if not widths or len(set(widths)) != len(widths):
        raise UserError(f"bits must name each width once, not {list(bits)}")
    unknown = set(extra) - set(get_args(Extra))
    if unknown:
        raise UserError(f"extra: no such part {min(unknown)!r}; there are {', '.join(get_args(Extra))}")
    rounded, taken = [width for width in widths if width != FULL], shared_start != "zero"
    if taken and not (adapters and rounded):
        raise UserError("shared_start is about what rounding does: name widths below 16, with adapters")
    if taken and start == "loftq":
        raise UserError(
            "with a shared_start, adapters start from data after it (qera or apiq), not at what loftq finds"
        )
    architecture = architecture_of(model.config)
    names = architecture.linear_names(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    linears = {name: _quant_linear(model.get_submodule(name), grid) for name in names}
    for name, linear in linears.items():
        model.set_submodule(name, linear)
    _quantize_extra(model, tuple(extra), grid)
    for linear in linears.values() if train_base or learn_scales else ():
        with _on(linear, fit_on):
            for width in rounded:
                linear.fix_grid(width, learn_scales)
    if adapters:
        configs = adapter_configs(widths, architecture.linears, rank, alpha, dropout, shared_rank, train_base, taken)
        add_adapters(model, configs)
    norms = _own_norms(model, widths) if own_norms else {}
    attach_switch(model, widths, norms)
    if not taken:
        prepare_widths(model, fit_on)
    if adapters and start == "loftq":
        start_loftq(model)
    for linear in linears.values():  # after peft, which freezes all that is not an adapter, and a start that reads it
        linear.train_in_place(train_base, learn_scales)
    return model


def prepare_widths(model: PreTrainedModel, fit_on: torch.device | None = None) -> None:
    """Round the weights of a switchable model to its widths, where that is not done; see `make_switchable`."""
    for layer in switch_layers(model):
        linear = layer.linear
        missing = [width for width in layer.widths if not linear.is_prepared(width)]
        with _on(linear, fit_on if missing else None):
            for width in missing:
                linear.prepare(width)


@contextmanager
def _on(module: nn.Module, device: torch.device | None) -> Iterator[None]:
    """Have a module with a weight on a device, inside the block; None: where it is."""
    home = cast(Tensor, module.weight).device
    module.to(device or home)
    try:
        yield
    finally:
        module.to(home)


def _quant_linear(module: nn.Module, grid: Grid) -> QuantLinear:
    """A Conv1D's weight is seen transposed, so that the full-precision product stays bit for bit what `transformers`
    computes; a linear keeps its own parameter, which may be tied."""
    weight_OI = weight_view(module)
    own = cast(nn.Parameter, module.weight)
    return QuantLinear(own if isinstance(module, nn.Linear) else nn.Parameter(weight_OI), module.bias, grid)  # type: ignore[arg-type]


def _own_norms(model: PreTrainedModel, widths: Sequence[int]) -> dict[str, SwitchedNorm]:
    """Put norms that every width has its own of into the blocks; by the name of the first linear that reads each."""
    architecture = architecture_of(model.config)
    norms = {}
    for index in range(len(blocks_of(model))):
        block = f"{architecture.blocks}.{index}"
        for read in architecture.inputs(model.config):
            if read.norm is not None:
                norm = SwitchedNorm(model.get_submodule(f"{block}.{read.norm}"), widths)
                model.set_submodule(f"{block}.{read.norm}", norm)
                norms[f"{block}.{read.linears[0]}"] = norm
    if not norms:
        raise UserError("no linear of this model reads a norm, so there is none to give each width its own of")
    for name, parameter in model.named_parameters():
        if is_own_norm(name):
            parameter.requires_grad_(True)
    return norms


def _quantize_extra(model: PreTrainedModel, extra: tuple[Extra, ...], grid: Grid) -> None:
    if not extra:
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embedding.weight
    if tied and set(extra) != {"head", "embeddings"}:
        raise UserError("this model's head and embeddings are one tensor: quantise both (extra: [head, embeddings])")
    quantized_head = None
    if "head" in extra:
        quantized_head = _quant_linear(head, grid)
        model.set_output_embeddings(quantized_head)
    if "embeddings" in extra:
        model.set_input_embeddings(
            QuantEmbedding(cast(nn.Parameter, embedding.weight), grid, quantized_head if tied else None)
        )
