"""What a model's weights alone say of the channels that its linears read: no text, no forward.

For an input x (I,) of a block:

    made_I   how large x_i should be, from what makes it. A norm gives x = g z + b with z of mean 0 and variance 1. A
             linear W after it gives mean W m + c and variance (W^2) v, were the channels before independent. The size
             is sqrt(mean^2 + variance); after an activation function E max(u, 0), u normal. 1 where nothing is known.
    read_I   the root mean square of the weights that multiply x_i, over the rows of all linears that read it

Folding a scale into the norm or linear that makes x, and into those that read it, moves both as it moves x.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.models import architecture_of, blocks_of, content_hash, weight_view
from switchq.models.architecture import Input


@dataclass(frozen=True)
class Place:
    """Where an input is.

    Attributes:
        block: index of the block.
        role: what it is to the block, one of `switchq.models.architecture.ROLES`.
        layers: dotted names of the linears that read it.
        inputs: channels.
    """

    block: int
    role: str
    layers: tuple[str, ...]
    inputs: int


@dataclass(frozen=True, eq=False)
class Channels:
    """An input's channels by the weights, (I,) each; see above."""

    place: Place
    made_I: Tensor
    read_I: Tensor


@dataclass(frozen=True, eq=False)
class Portrait:
    """A model without its weights.

    Attributes:
        name: Hub name or folder.
        sha256: content hash of its weights.
        model_type: of its configuration.
        vocabulary: hash of its tokenizer's tokens and their ids.
        blocks: how many.
        sites: the inputs, in model order.
    """

    name: str
    sha256: str
    model_type: str
    vocabulary: str
    blocks: int
    sites: tuple[Channels, ...]


@torch.no_grad()
def portrait(model: PreTrainedModel, name: str, tokenizer: PreTrainedTokenizerBase) -> Portrait:
    """What the weights of a model say."""
    architecture = architecture_of(model.config)
    inputs, blocks = architecture.inputs(model.config), blocks_of(model)
    sites = [
        _channels(block, f"{architecture.blocks}.{index}", index, inputs, one)
        for index, block in enumerate(blocks)
        for one in inputs
    ]
    tokens = json.dumps(sorted(tokenizer.get_vocab().items()))
    return Portrait(
        name=name,
        sha256=content_hash(model),
        model_type=str(model.config.model_type),
        vocabulary=hashlib.sha256(tokens.encode("utf-8", "backslashreplace")).hexdigest(),
        blocks=len(blocks),
        sites=tuple(sites),
    )


def _channels(block: nn.Module, name: str, index: int, inputs: Sequence[Input], one: Input) -> Channels:
    layers = tuple(f"{name}.{linear}" for linear in one.linears)
    read_I = torch.cat([_weight(block, linear) for linear in one.linears]).square().mean(0).sqrt()
    place = Place(index, one.role, layers, len(read_I))
    return Channels(place, _size(block, inputs, one, len(read_I)), read_I)


def _size(block: nn.Module, inputs: Sequence[Input], one: Input, width: int) -> Tensor:
    mean_I, variance_I = _moments(block, inputs, one, width)
    if one.through is None:
        return (mean_I.square() + variance_I).sqrt()
    deviation_I = variance_I.sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    at_I = mean_I / deviation_I
    density_I = torch.exp(-at_I.square() / 2) / math.sqrt(2 * math.pi)
    return (deviation_I * density_I + mean_I * torch.special.ndtr(at_I)).clamp(min=0)


def _moments(block: nn.Module, inputs: Sequence[Input], one: Input, width: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (I,) of an input, before the activation function if there is one."""
    if one.norm is not None:
        norm = block.get_submodule(one.norm)
        gain_I, bias_I = getattr(norm, "weight", None), getattr(norm, "bias", None)
        mean_I = torch.zeros(width) if bias_I is None else bias_I.detach().float().cpu()
        return mean_I, torch.ones(width) if gain_I is None else gain_I.detach().float().cpu().square()
    maker = one.linear or one.through
    if maker is None:
        return torch.zeros(width), torch.ones(width)
    rows = slice(one.first_row, one.first_row + width // one.repeats)
    weight_OI, bias_O = _weight(block, maker), getattr(block.get_submodule(maker), "bias", None)
    before = next(other for other in inputs if maker in other.linears)
    mean_I, variance_I = _moments(block, inputs, before, weight_OI.shape[1])
    made_O, spread_O = weight_OI @ mean_I, weight_OI.square() @ variance_I
    if bias_O is not None:
        made_O = made_O + bias_O.detach().float().cpu()
    return _repeated(made_O[rows], one), _repeated(spread_O[rows], one)


def _repeated(value_O: Tensor, one: Input) -> Tensor:
    """Heads that are shared, once for each head that reads them."""
    if one.repeats == 1:
        return value_O
    return value_O.reshape(-1, 1, one.head_size).expand(-1, one.repeats, -1).reshape(-1)


def _weight(block: nn.Module, name: str) -> Tensor:
    return weight_view(block.get_submodule(name)).float().cpu()
