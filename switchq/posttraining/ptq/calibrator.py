"""Calibration block by block: the inputs of one block are all that is kept, whatever the depth.

Batches go through the blocks of a bunch (one, unless the setting says more) twice: first with float weights, to gather
the statistics of every site's input, then with rounded ones, to become the inputs of the next bunch. For a rounder that
is sequential they go through each block once: all of them stop at a site until it is rounded and go on from there, so
that the sites behind it see what it gives out. What a batch holds at that place, its residual stream and the site's
input, stays on the device meanwhile. A rounder of whole blocks also gets what the float model has at the block's two
ends: a second set of inputs goes along, through float blocks alone.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.models import blocks_of
from switchq.models.block_ends import Ends
from switchq.models.blocks import Forward, run_blocks, wrapped_blocks
from switchq.models.logits import hidden_states
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq.lockstep import Lockstep, pause
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
        self._float_inputs: list[Tensor | None] = [None] * len(batches)

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
                gatherers[index].add(_real(arguments[0], state["real_N"]))
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
            _hand_over(site, gatherer)

    @torch.no_grad()
    def walk(self, sites: Sequence[Site], needs: Needs, block: int, visit: Callable[[Site], object]) -> None:
        """Take the batches through one block, once, from site to site; its outputs become the kept inputs.

        Args:
            sites: of that block, in the order of the forward pass.
            needs: what to gather at each.
            block: its index; the kept inputs are of it.
            visit: called at each site, with its `statistics`; the batches then go on with the linears that it leaves.

        Raises:
            UserError: inputs that are not finite.
        """
        here = threading.local()  # what belongs to the batch that is going on

        def stand_in(index: int, own: Forward) -> Forward:
            def forward(hidden_BTI: Tensor, *rest: Any, **options: Any) -> Tensor:
                if index == block:
                    hidden_BTI = own(hidden_BTI if here.input is None else here.input, *rest, **options)
                    here.output = hidden_BTI
                return hidden_BTI

            return forward

        def run(place: int) -> None:
            batch, kept = self.batches[place].to(self.device), self._inputs[place]
            here.real_N, here.input = batch.real_N, None if kept is None else kept.to(self.device)
            with torch.no_grad():  # a thread has a mode of its own
                hidden_states(self.model, batch.inputs)
            self._inputs[place] = here.output.to(self.home)

        steps = iter(Lockstep([partial(run, place) for place in range(len(self.batches))]))
        with wrapped_blocks(self.model, stand_in), closing(steps):
            for site in sites:
                gatherer = Accumulator(needs, self.tokens, self.seed)
                with _stop_at(site.linears[0].module, partial(_count, gatherer, here)):
                    self._step(steps)
                _hand_over(site, gatherer)
                visit(site)
            if block + 1 < len(blocks_of(self.model)):
                self._step(steps)

    def _step(self, steps: Iterator[None]) -> None:
        began = time.perf_counter()
        next(steps, None)
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def ends(self, block: int, one_shot: bool) -> list[Ends]:
        """What every batch is at the ends of a block whose weights are float; to be called for each block in turn.

        Args:
            block: its index; the kept inputs are of it.
            one_shot: give it the float model's inputs.
        """
        found: list[Ends] = []
        began = time.perf_counter()
        for place, batch in enumerate(self.batches):
            batch = batch.to(self.device)

            def stand_in(index: int, own: Forward, place: int = place, real_N: Tensor = batch.real_N) -> Forward:
                def forward(hidden_BTI: Tensor, *rest: Any, **options: Any) -> Tensor:
                    if index < block:
                        return hidden_BTI
                    kept, given = self._float_inputs[place], self._inputs[place]
                    float_BTI = hidden_BTI if kept is None else kept.to(self.device)
                    wanted_BTI = own(float_BTI, *rest, **options).to(self.home)
                    input_BTI = float_BTI if one_shot or given is None else given
                    self._float_inputs[place] = wanted_BTI
                    found.append(Ends(input_BTI.to(self.home), wanted_BTI, rest, options, real_N))
                    raise _Enough

                return forward

            with wrapped_blocks(self.model, stand_in), suppress(_Enough):
                hidden_states(self.model, batch.inputs)
        self.seconds += time.perf_counter() - began
        return found

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


def _real(x_BTI: Tensor, real_N: Tensor) -> Tensor:
    return x_BTI.flatten(0, -2).index_select(0, real_N)


def _count(gatherer: Accumulator, here: threading.local, x_BTI: Tensor) -> None:
    gatherer.add(_real(x_BTI, here.real_N))


def _hand_over(site: Site, gatherer: Accumulator) -> None:
    """Give a site what was gathered, if it is fit for use."""
    site.statistics = gatherer.result()
    if not all(torch.isfinite(value).all() for value in site.statistics.values.values()):
        raise UserError(f"the calibration inputs of {site.linears[0].name} are not finite")


@contextmanager
def _stop_at(module: nn.Module, look: Callable[[Tensor], object]) -> Iterator[None]:
    """Inside, a run that comes to `module` shows its input and pauses; then it calls the module as that is by then."""

    def forward(x_BTI: Tensor) -> Tensor:
        look(x_BTI)
        pause()
        output: Tensor = module(x_BTI)
        return output

    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]


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
