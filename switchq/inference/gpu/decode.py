"""Fast generation on a GPU: one CUDA graph launch a token.

A graph is captured for each bitmap when it first decodes, which takes some milliseconds, and kept; the least recently
used one goes when there are more than `GRAPHS`. All graphs share one static cache, so the bitmap may change between
two tokens.
"""

from collections import OrderedDict
from typing import Any

import torch

from switchq.inference.gpu.device import multiplies, overlaps
from switchq.inference.gpu.kernel import products
from switchq.inference.gpu.step import GraphStep
from switchq.inference.steps.cache import Cache
from switchq.inference.steps.decoder import Decoder
from switchq.inference.steps.gpt2 import is_plain_gpt2
from switchq.nn import get_switch

GRAPHS = 16
"""Most graphs that are kept."""


def available(lm: Any) -> bool:
    """Whether `GraphDecoder` runs this model: a GPT-2 on a GPU with what kernels need, and a Triton."""
    return multiplies(lm.model.device) and products() is not None and is_plain_gpt2(lm.model)


class GraphDecoder(Decoder):
    """A `Decoder` that keeps its graphs for the next call.

    Args:
        lm: a `SwitchableLM` for which `available` says yes.
        pdl: let kernels begin while those before them still run; by default where the GPU can.
        graphs: False runs every step kernel by kernel.
    """

    def __init__(self, lm: Any, pdl: bool | None = None, graphs: bool = True) -> None:
        from switchq.inference.gpu import blocks, products

        pdl = overlaps(lm.model.device) if pdl is None else pdl
        super().__init__(lm, GraphStep(lm.model, blocks, products, pdl))
        self.captures = graphs
        self._graphs: OrderedDict[Any, torch.cuda.CUDAGraph] = OrderedDict()

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

    def _drop(self) -> None:
        """See `Decoder._drop`; a graph is good for one cache."""
        super()._drop()
        self._graphs.clear()
