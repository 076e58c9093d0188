"""Calibration block by block: the inputs of one block are all that is kept, whatever the depth.

Batches go through the blocks of a bunch (one, unless the setting says more) twice: first with float weights, to gather
the statistics of every site's input, then with rounded ones, to become the inputs of the next bunch. A rounder that is
sequential gathers each site's statistics anew after the sites before it are rounded, in a forward that stops there.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import blocks_of
from switchq.posttraining.blocks import run_blocks
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.statistics import Accumulator, Needs


class _Enough(Exception):
    """Ends a forward whose rest nobody needs."""


class Calibrator:
    """The calibration batches on their way through the blocks.

    Args:
        model: in evaluation mode; everything but its blocks is on `device`.
        batches: calibration batches; none is fine as long as nothing is collected.
        seed: draws the sampled tokens.
        device: where blocks run.
        home: where the inputs of the current block wait.

    Attributes:
        seconds: that running the batches has taken so far.
        tokens: real ones in all batches.
    """

    def __init__(
        self, model: PreTrainedModel, batches: Sequence[Batch], seed: int, device: torch.device, home: torch.device
    ) -> None:
        self.model, self.batches, self.seed, self.device, self.home = model, batches, seed, device, home
        self.seconds = 0.0
        self.tokens = sum(len(batch.real_N) for batch in batches)
        self._inputs: list[Tensor | None] = [None] * len(batches)

    @torch.no_grad()
    def collect(self, sites: Sequence[Site], needs: Needs, first: int, last: int, advance: bool = False) -> None:
        """Gather the statistics of these sites, in blocks `first` to `last`, from one forward.

        Args:
            sites: in the order of the forward pass; each gets new `statistics`.
            needs: what to gather.
            first: the block that the kept inputs are of.
            last: the last block to run.
            advance: keep the outputs, as `advance` does; without it the forward stops at the last site.

        Raises:
            UserError: inputs that are not finite.
        """
        gatherers = [Accumulator(needs, self.tokens, self.seed) for _ in sites]
        state: dict[str, Tensor] = {}

        def hook_of(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
                gatherers[index].add(arguments[0].flatten(0, -2).index_select(0, state["real_N"]))
                if index == len(sites) - 1 and not advance:
                    raise _Enough

            return hook

        with ExitStack() as hooks:
            for index, site in enumerate(sites):
                module = site.linears[0].module
                hooks.callback(module.register_forward_pre_hook(hook_of(index), prepend=True).remove)
            for place, batch in enumerate(self.batches):
                batch = batch.to(self.device)
                state["real_N"] = batch.real_N
                self._run(place, batch, first, last, advance)
        for site, gatherer in zip(sites, gatherers, strict=True):
            site.statistics = gatherer.result()
            if not all(torch.isfinite(value).all() for value in site.statistics.values.values()):
                raise UserError(f"the calibration inputs of {site.linears[0].name} are not finite")

    @torch.no_grad()
    def advance(self, first: int, last: int) -> None:
        """Make the outputs of block `last` the kept inputs, those of block `last + 1`."""
        for place, batch in enumerate(self.batches):
            self._run(place, batch.to(self.device), first, last, True)

    def _run(self, place: int, batch: Batch, first: int, last: int, keep: bool) -> None:
        kept, began = self._inputs[place], time.perf_counter()
        try:
            output = run_blocks(
                self.model, batch.inputs, first, None if kept is None else kept.to(self.device), last=last
            )
            if keep:
                self._inputs[place] = output.to(self.home)
        except _Enough:
            return
        finally:
            self.seconds += time.perf_counter() - began


@contextmanager
def all_but_blocks_on(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Inside, the parts of the base model that are no blocks are on `device`; the blocks are moved one by one."""
    home = model.device
    inside = {module for block in blocks_of(model) for module in block.modules()}
    rest = [module for module in model.base_model.modules() if module not in inside]
    _move(rest, device)
    try:
        yield
    finally:
        _move(rest, home)


@contextmanager
def blocks_on(blocks: Sequence[nn.Module], device: torch.device, home: torch.device) -> Iterator[None]:
    """Inside, these blocks are on `device`."""
    modules = [module for block in blocks for module in block.modules()]
    _move(modules, device)
    try:
        yield
    finally:
        _move(modules, home)


def _move(modules: Sequence[nn.Module], device: torch.device) -> None:
    for module in modules:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device)  # in place, so that tied tensors stay tied
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
