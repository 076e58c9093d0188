"""Logits where they are needed: the head is the widest product of a small model, and most positions take no loss."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def hidden_states(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Last hidden states (B, T, I), after the final norm, for `input_ids`, `attention_mask` and the like."""
    return model.base_model(**inputs, use_cache=False, **options).last_hidden_state


def logits_at(model: PreTrainedModel, inputs: dict[str, Tensor], where: Tensor) -> Tensor:
    """Logits (N, V) at N positions.

    Args:
        model: a causal language model.
        inputs: what `hidden_states` takes, (B, T) each.
        where: a mask (B, T), or the indices (N,) of the flattened positions. Indices save a GPU the wait that
            counting a mask costs in every call.
    """
    if where.dtype == torch.bool:
        where = where.flatten().nonzero().squeeze(-1)
    return model.get_output_embeddings()(hidden_states(model, inputs).flatten(0, 1).index_select(0, where))


def logits_and_states_at(
    model: PreTrainedModel, inputs: dict[str, Tensor], where: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits (N, V), and the hidden states (N, I) after each block, at N flattened positions.

    The last states are those that the head reads, after the final norm and what else comes between; they may be
    narrower.
    """
    output = model.base_model(**inputs, use_cache=False, output_hidden_states=True)
    last_NI, *states = (
        states_BTI.flatten(0, 1).index_select(0, where)
        for states_BTI in (output.last_hidden_state, *output.hidden_states[1:])
    )
    return model.get_output_embeddings()(last_NI), tuple(states)
