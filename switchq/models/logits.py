"""Logits where they are needed: the head is the widest product of a small model, and most positions take no loss."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


def hidden_states(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Last hidden states (B, T, I), after the final norm, for `input_ids`, `attention_mask` and the like."""
    return model.base_model(**inputs, use_cache=False, **options).last_hidden_state


def logits_at(model: PreTrainedModel, inputs: dict[str, Tensor], mask_BT: Tensor) -> Tensor:
    """Logits (N, V) at the N positions where `mask_BT` is true, in row-major order."""
    return model.get_output_embeddings()(hidden_states(model, inputs)[mask_BT])
