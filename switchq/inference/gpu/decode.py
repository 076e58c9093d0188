"""Fast generation on a GPU: the prompt through the model, then one CUDA graph launch a token.

A graph is captured for each bitmap when it first decodes, which takes some milliseconds, and kept; the least recently
used one goes when there are more than `GRAPHS`. All graphs share one static cache, so the bitmap may change between
two tokens.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from switchq.bitmap import Bitmap
from switchq.inference.gpu.kernel import products
from switchq.inference.gpu.step import Cache, Step, runs
from switchq.nn import get_switch

GRAPHS = 16
"""Most graphs that are kept."""

ROUND = 256
"""A cache has room for a multiple of so many tokens."""


def available(lm: Any) -> bool:
    """Whether `Decoder` runs this model: a GPT-2 on a GPU, and a Triton."""
    return bool(lm.model.device.type == "cuda" and products() is not None and runs(lm.model))


class Decoder:
    """Generates with an artifact's model; keeps its cache and graphs for the next call.

    Args:
        lm: a `SwitchableLM` for which `available` says yes.
        pdl: let kernels begin while those before them still run.
        graphs: False runs every step kernel by kernel.
    """

    def __init__(self, lm: Any, pdl: bool = True, graphs: bool = True) -> None:
        from switchq.inference.gpu import blocks, products

        self.lm, self.captures = lm, graphs
        self.step = Step(lm.model, blocks, products, pdl)
        self.cache: Cache | None = None
        self._graphs: OrderedDict[Any, torch.cuda.CUDAGraph] = OrderedDict()

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
        """
        mask_NT = torch.ones_like(ids_NT) if mask_NT is None else mask_NT
        if 0 in schedule:
            self.lm.set_bitmap(schedule[0])
        cache = self._cache(len(ids_NT), ids_NT.shape[1] + new_tokens)
        logits_NV = self.prefill(cache, ids_NT, mask_NT)
        for number in range(new_tokens):
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
        if not self.captures:
            return self.step(cache)
        switch = get_switch(self.lm.model)
        key = (switch.bitmap, switch.adapters)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._capture(cache)
            if len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return graph.replay()

    def _capture(self, cache: Cache) -> torch.cuda.CUDAGraph:
        """The step as a graph; the cache is as before."""
        kept = [one.clone() for one in (cache.ids_N, cache.position)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step(cache)  # compiles what is new
        torch.cuda.current_stream().wait_stream(side)
        for place, value in zip((cache.ids_N, cache.position), kept, strict=True):
            place.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(cache)
        return graph

    def _cache(self, rows: int, tokens: int) -> Cache:
        """A cache for so many rows and tokens: the last one if it is the same, else a new one without graphs."""
        config = self.lm.model.config
        held = self.cache
        if held is None or held.said_NT.shape[0] != rows or held.said_NT.shape[1] < tokens:
            self._graphs.clear()
            self.cache = None
            capacity = -(-tokens // ROUND) * ROUND
            held = self.cache = Cache.empty(config, rows, capacity, self.lm.model.device, self.step.dtype)
        return held


def sample(logits_NV: Tensor, temperature: float, top_k: int) -> Tensor:
    """A token (N,) for each row, among its `top_k` likeliest."""
    values_NK, ids_NK = logits_NV.float().topk(min(top_k, logits_NV.shape[-1]))
    picked_N1 = torch.multinomial((values_NK / temperature).softmax(-1), 1)
    return ids_NK.gather(-1, picked_N1).squeeze(-1)
