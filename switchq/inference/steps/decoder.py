"""Fast generation: the prompt through the model, then a step a token."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from switchq.bitmap import Bitmap
from switchq.inference.steps.cache import Cache
from switchq.inference.steps.step import Step
from switchq.models.inference import COLDEST

ROUND = 256
"""A cache has room for a multiple of so many tokens."""


class Decoder:
    """Generates with an artifact's model; keeps its cache for the next call. The bitmap may change between two tokens.

    Args:
        lm: a `SwitchableLM`.
        step: of its model.
    """

    def __init__(self, lm: Any, step: Step) -> None:
        self.lm, self.step = lm, step
        self.cache: Cache | None = None
        self._begun = object()

    @torch.inference_mode()
    def tokens(
        self,
        ids_NT: Tensor,
        mask_NT: Tensor | None = None,
        *,
        new_tokens: int,
        schedule: Mapping[int, Bitmap] = {},
        temperature: float = 0.0,
        top_k: int = 50,
    ) -> Iterator[Tensor]:
        """The next tokens (N,) of each row, one after the other, on the device; no row ends early.

        Args:
            ids_NT: prompts, padded on the left.
            mask_NT: 1 where there is a token.
            new_tokens: how many.
            schedule: token -> bitmap from it on; the present one where it says nothing.
            temperature: 0 takes the likeliest.
            top_k: sample among so many.

        Raises:
            RuntimeError: another generation began before this one's end: they share the cache.
        """
        mask_NT = torch.ones_like(ids_NT) if mask_NT is None else mask_NT
        if 0 in schedule:
            self.lm.set_bitmap(schedule[0])
        cache = self._cache(len(ids_NT), ids_NT.shape[1] + new_tokens)
        self._begun = begun = object()
        logits_NV = self.prefill(cache, ids_NT, mask_NT)
        for number in range(new_tokens):
            if self._begun is not begun:
                raise RuntimeError("another generation began before this one's end: give it a decoder of its own")
            if number:
                if number in schedule:
                    self.lm.set_bitmap(schedule[number])
                self.run(cache)
                logits_NV = cache.logits_NV
            if temperature:
                cache.ids_N.copy_(sample(logits_NV, temperature, top_k))
            yield cache.ids_N.clone()

    def prefill(self, cache: Cache, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Read the prompts; the logits (N, V) after them, and the cache ready for the first step."""
        places_NT = (mask_NT.cumsum(-1) - 1).clamp(min=0)
        done = self.lm.model(
            input_ids=ids_NT, attention_mask=mask_NT, position_ids=places_NT, use_cache=True, logits_to_keep=1
        )
        cache.fill(done.past_key_values, mask_NT)
        logits_NV: Tensor = done.logits[:, -1]
        cache.logits_NV.copy_(logits_NV)
        cache.ids_N.copy_(logits_NV.argmax(-1))
        return logits_NV

    def run(self, cache: Cache) -> None:
        """One step at the present bitmap."""
        self.step(cache)

    def _cache(self, rows: int, tokens: int) -> Cache:
        """A cache for so many rows and tokens: the last one if it is the same, else a new one."""
        held = self.cache
        if held is not None and held.said_NT.shape[0] == rows and held.said_NT.shape[1] >= tokens:
            return held
        del held
        self._drop()
        model, capacity = self.lm.model, -(-tokens // ROUND) * ROUND
        self.cache = Cache.empty(model.config, rows, capacity, model.device, self.step.dtype)
        return self.cache

    def _drop(self) -> None:
        """Let the cache go, before a new one takes its room."""
        self.cache = None


def sample(logits_NV: Tensor, temperature: float, top_k: int) -> Tensor:
    """A token (N,) for each row, among its `top_k` likeliest."""
    values_NK, ids_NK = logits_NV.float().topk(min(top_k, logits_NV.shape[-1]))
    picked_N1 = torch.multinomial(((values_NK - values_NK[:, :1]) / max(temperature, COLDEST)).softmax(-1), 1)
    return ids_NK.gather(-1, picked_N1).squeeze(-1)
