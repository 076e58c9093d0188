"""A model's part of decoding."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from switchq.inference.steps.cache import Cache


class Step(ABC):
    """One token of every row through a model, at the bitmap that the model has when called.

    Args:
        model: a causal language model whose linears are `PackedLinear`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.dtype: torch.dtype = model.dtype

    def __call__(self, cache: Cache) -> None:
        """Read the tokens of the cache, write logits and the likeliest next tokens, and go on one place."""
        cache.take(self.model.lm_head(self.hidden(cache)))

    @abstractmethod
    def hidden(self, cache: Cache) -> Tensor:
        """What the head reads, (N, I), of the tokens in the cache, whose keys and values go into it."""
