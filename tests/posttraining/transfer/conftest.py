"""Statistics by hand, and models whose large channels are where a test wants them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.models.architecture import ROLES
from switchq.posttraining.transfer.channels import Channels, Place, Portrait
from switchq.posttraining.transfer.statistics import Entry, SiteStatistics


def channels(
    block: int, inputs: int, role: str = ROLES[0], made: Tensor | None = None, read: Tensor | None = None
) -> Channels:
    """An input of a made-up model."""
    place = Place(block, role, (f"h.{block}.{role.replace(' ', '_')}",), inputs)
    ones_I = torch.ones(inputs)
    return Channels(place, ones_I if made is None else made, ones_I if read is None else read)


def site(importance_I: Tensor, block: int = 0, protected: int = 1, alpha: float = 0.5, **more: Any) -> SiteStatistics:
    """What AWQ found at an input of it."""
    found = channels(block, len(importance_I), **more)
    top_K = importance_I.topk(protected).indices
    return SiteStatistics(found, importance_I, alpha, torch.ones(len(importance_I)), top_K, 2.0)


def model_of(blocks: int, inputs: int, roles: tuple[str, ...] = ROLES, name: str = "made-up") -> Portrait:
    """A made-up model whose weights say nothing."""
    sites = tuple(channels(block, inputs, role) for block in range(blocks) for role in roles)
    return Portrait(name, f"hash of {name}", "gpt2", "tokens", blocks, sites)


def entry_of(blocks: int, inputs: int, roles: tuple[str, ...] = ROLES) -> Entry:
    """Statistics of such a model; the importance of channel i is i + 1."""
    importance_I = torch.arange(1.0, inputs + 1)
    sites = tuple(site(importance_I, block, role=role) for block in range(blocks) for role in roles)
    return Entry(4, 0, blocks, sites)


def plant(model: PreTrainedModel, first: float, last: float, factor: float = 12.0) -> PreTrainedModel:
    """Make a band of channels large: the norms' gains between two relative positions."""
    for name, parameter in model.named_parameters():
        if name.endswith(("ln_1.weight", "ln_2.weight")):
            width = len(parameter)
            parameter.data[round(first * width) : round(last * width)] *= factor
    return model


@pytest.fixture(scope="session")
def padded(character_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The character tokenizer, padding with its end token."""
    tokenizer = copy.deepcopy(character_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
