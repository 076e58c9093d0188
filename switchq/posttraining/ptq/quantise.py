"""Post-training quantisation of a model, in place: each block in turn is calibrated, transformed and rounded.

    for each block:   statistics of its inputs -> transforms (all sites) -> rounding (all sites) -> inputs of the next

Afterwards the block linears hold rounded weights as floats, so the model is a plain one: it can be scored, saved and
loaded by `transformers` alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.evaluation import peak_memory, reset_peak_memory
from switchq.models import architecture_of, blocks_of, context_window, weight_view
from switchq.models.inference import eval_mode
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq.activations import install
from switchq.posttraining.ptq.blockwise import Block, BlockRounder
from switchq.posttraining.ptq.calibrator import Calibrator, all_but_blocks_on, blocks_on
from switchq.posttraining.ptq.method import Method
from switchq.posttraining.ptq.record import Quantised, QuantisedLayer
from switchq.posttraining.ptq.rounder import LinearRounder, Rounded
from switchq.posttraining.ptq.setting import Setting
from switchq.posttraining.ptq.site import Linear, Site
from switchq.posttraining.ptq.statistics import Needs, Statistics
from switchq.posttraining.ptq.transform import Target
from switchq.progress import progress_bar
from switchq.quant import Grid

OnLayer = Callable[[Linear, Rounded], object]

ERROR_TOKENS = 512
"""Tokens that the relative output error of a layer is taken over."""


def quantise(
    model: PreTrainedModel,
    method: Method,
    setting: Setting,
    batches: Sequence[Batch] = (),
    *,
    device: torch.device | None = None,
    on_layer: OnLayer | None = None,
    progress: bool = True,
) -> Quantised:
    """Quantise `model` in place.

    Args:
        model: a causal language model of a supported architecture, as `transformers` builds it. If this is interrupted
            or fails, it is left half quantised.
        method: how.
        setting: the comparison's common ground.
        batches: calibration batches. Without them, methods that need no statistics still work, and no errors are
            measured.
        device: where to compute; the blocks go there one after the other. By default the model's own device.
        on_layer: called with each linear and its codes, once they are final.
        progress: show a progress bar with the time left, on stderr.

    Returns:
        The record. Weights of the model are `transformers`' own modules with rounded values.

    Raises:
        UserError: no batches for a method that needs them, or longer ones than the model reads; weights or inputs that
            are not finite, a group size that does not divide a row, a glob that matches nothing.
    """
    needs = method.needs()
    if needs and not batches:
        raise UserError(f"{method.name} needs calibration text")
    window, longest = context_window(model), max((batch.inputs["input_ids"].shape[1] for batch in batches), default=0)
    if longest > window:
        raise UserError(f"the model reads {window} tokens and a calibration batch has {longest}: use shorter samples")
    sites = _sites(model, setting)
    grid = method.grid_for(setting)
    for linear in (linear for block in sites for site in block for linear in site.quantised):
        if not torch.isfinite(weight_view(linear.module)).all():
            raise UserError(f"the weight of {linear.name} has values that are not finite")
        grid.groups(weight_view(linear.module).shape[1])
    before = _bytes(model)
    home = model.device
    device = device or home
    reset_peak_memory(device)
    began = time.perf_counter()
    layers: list[QuantisedLayer] = []
    work = _Work(model, method, setting, grid, Calibrator(model, batches, setting.seed, device, home), on_layer)
    blocks, step = blocks_of(model), setting.blocks_at_once
    with torch.no_grad(), eval_mode(model), all_but_blocks_on(model, device), progress_bar(progress) as bar:
        for transform in method.transforms:
            transform.prepare(model, setting.seed)
        task = bar.add_task(method.name, total=len(blocks))
        for first in range(0, len(blocks), step):
            bunch = sites[first : first + step]
            with blocks_on(blocks[first : first + step], device, home):
                layers += work.bunch(bunch, first)
            bar.advance(task, len(bunch))
    skipped = [linear for block in sites for site in block for linear in site.linears if not linear.quantised]
    weights = sum(layer.weights for layer in layers)
    stored = sum(layer.effective_bits * layer.weights for layer in layers) / 8
    memory, memory_of = peak_memory(device)
    return Quantised(
        name=method.name,
        method=method.to_dict(),
        setting=asdict(setting),
        layers=tuple(layers),
        skipped=tuple(linear.name for linear in skipped),
        skipped_weights=sum(weight_view(linear.module).numel() for linear in skipped),
        bytes_before=before,
        bytes_after=_bytes(model) - weights * 2.0 + stored,
        seconds=time.perf_counter() - began,
        peak_memory_mb=memory,
        peak_memory_of=memory_of,
        calibration_tokens=work.calibrator.tokens,
        reload="the rounding of activations" if method.activations else "nothing",
        collecting_seconds=work.calibrator.seconds,
    )


@dataclass(frozen=True)
class _Work:
    """What is the same for every block."""

    model: PreTrainedModel
    method: Method
    setting: Setting
    grid: Grid
    calibrator: Calibrator
    on_layer: OnLayer | None

    def bunch(self, blocks: Sequence[Sequence[Site]], first: int) -> list[QuantisedLayer]:
        """Quantise the blocks from `first` on, given their sites."""
        method, calibrator, last = self.method, self.calibrator, first + len(blocks) - 1
        sites = [site for block in blocks for site in block]
        touched = [site for site in sites if site.quantised]
        one_shot = self.setting.one_shot and bool(calibrator.batches)
        rounder = method.rounder
        sequential = isinstance(rounder, LinearRounder) and rounder.sequential
        in_turn = sequential and len(blocks) == 1 and not one_shot
        own = Needs(samples=ERROR_TOKENS) if calibrator.batches else Needs()
        needs = method.needs() | own
        at_once = method.transform_needs() if in_turn else needs
        if at_once and touched:
            calibrator.collect(touched, at_once, first, last, advance=one_shot)
        for transform in method.transforms:
            for site in touched:
                transform.apply(site, self._target())
        layers: dict[str, QuantisedLayer] = {}

        def visit(site: Site) -> None:
            assert isinstance(rounder, LinearRounder)
            for linears in _together(rounder, site):
                layers.update((layer.name, layer) for layer in self._round(rounder, linears, site.statistics))
            site.statistics = Statistics({})

        if isinstance(rounder, BlockRounder):
            for index, block in enumerate(blocks, first):
                layers.update((layer.name, layer) for layer in self._round_block(rounder, block, index))
        elif in_turn and touched:
            calibrator.walk(touched, needs, first, visit)
        else:
            for site in touched:
                visit(site)
            if calibrator.batches and not (one_shot and touched) and last + 1 < self._depth:
                calibrator.advance(first, last)
        return [layers[linear.name] for site in touched for linear in site.quantised]

    def _round_block(self, rounder: BlockRounder, sites: Sequence[Site], index: int) -> Iterator[QuantisedLayer]:
        """Round a block as a whole and go on to the next."""
        one_shot, calibrator = self.setting.one_shot, self.calibrator
        ends = calibrator.ends(index, one_shot)
        pairs = [(linear, site) for site in sites for linear in site.quantised]
        if pairs:
            block = Block(sites[0].block, [linear for linear, _ in pairs], ends)
            rounded = rounder.round_block(block, self.grid, self.setting.bits, self.setting.seed)
            for (linear, site), part in zip(pairs, rounded, strict=True):
                yield self._write(linear, linear.weight_OI, part, linear.seen(site.statistics))
            for site in sites:
                site.statistics = Statistics({})
        if not one_shot and index + 1 < self._depth:
            calibrator.advance(index, index)

    def _round(
        self, rounder: LinearRounder, linears: Sequence[Linear], statistics: Statistics
    ) -> Iterator[QuantisedLayer]:
        """Round linears that see the same input."""
        seen = linears[0].seen(statistics)
        weights = [linear.weight_OI for linear in linears]
        coded = [linear.coded_OI for linear in linears]
        joined_OI = coded[0] if len(coded) == 1 else torch.cat(coded)
        rounded = rounder.round(joined_OI, self.grid, self.setting.bits, seen, self.setting.seed)
        parts = [rounded] if len(coded) == 1 else rounded.split([len(coded_OI) for coded_OI in coded])
        for linear, weight_OI, part in zip(linears, weights, parts, strict=True):
            yield self._write(linear, weight_OI, part, seen)

    def _write(self, linear: Linear, weight_OI: Tensor, rounded: Rounded, seen: Statistics) -> QuantisedLayer:
        """Put a rounded weight where `weight_OI` was."""
        rounded_OI = linear.whole(rounded.weight())
        error = _relative_error(weight_OI, rounded_OI, seen)  # before the weight, which may be the module's, is written
        linear.write(rounded_OI)
        if self.method.activations is not None:
            install(linear.module, self.method.activations.fit(seen), linear.bases)
            linear.notes["widths"] = f"W{rounded.bits}A{self.method.activations.bits}"
        if self.on_layer is not None:
            self.on_layer(linear, rounded)
        outputs, inputs = weight_OI.shape
        return QuantisedLayer(
            name=linear.name,
            shape=(outputs, inputs),
            bits=rounded.bits,
            overhead_bits=rounded.overhead_bits
            + linear.kept_bits(rounded.bits)
            + sum(basis.overhead_bits for basis in linear.bases),
            levels=_levels(rounded),
            error=error,
            notes=linear.notes,
        )

    def _target(self) -> Target:
        return Target(self.grid, self.setting.bits, self.method.rounder.in_search(), self.setting.seed)

    @property
    def _depth(self) -> int:
        return len(blocks_of(self.model))


def _together(rounder: LinearRounder, site: Site) -> list[tuple[Linear, ...]]:
    """The linears that are rounded as one weight: those whose inputs are the same and whose rows stand alone."""
    plain = tuple(linear for linear in site.quantised if not linear.bases)
    if not rounder.row_by_row or not plain:
        return [(linear,) for linear in site.quantised]
    return [plain, *((linear,) for linear in site.quantised if linear.bases)]


def _bytes(model: PreTrainedModel) -> float:
    """At 16 bits a weight, tied tensors once; a transform may have untied some."""
    return sum(parameter.numel() for parameter in model.parameters()) * 2.0


def _sites(model: PreTrainedModel, setting: Setting) -> list[list[Site]]:
    """The sites of every block, in model order."""
    architecture = architecture_of(model.config)
    wanted = set(setting.quantised(architecture.linear_names(model)))

    def linear(block: nn.Module, index: int, name: str) -> Linear:
        full = f"{architecture.blocks}.{index}.{name}"
        return Linear(full, block.get_submodule(name), full in wanted)

    return [
        [
            Site(block, one, tuple(linear(block, index, name) for name in one.linears))
            for one in architecture.inputs(model.config)
        ]
        for index, block in enumerate(blocks_of(model))
    ]


def _levels(rounded: Rounded) -> int:
    """Most different codes in a group."""
    codes_OI = rounded.codes_OI
    groups_MS = codes_OI.reshape(codes_OI.shape[0] * rounded.grid.groups(codes_OI.shape[1]), -1).sort(-1).values
    return int((groups_MS.diff(dim=-1) != 0).sum(-1).max()) + 1


def _relative_error(weight_OI: Tensor, rounded_OI: Tensor, statistics: Statistics) -> float | None:
    if "samples" not in statistics.values:
        return None
    x_NI = statistics.sampled(ERROR_TOKENS)
    whole = (x_NI @ weight_OI.T).square().sum()
    return float((x_NI @ (weight_OI - rounded_OI).T).square().sum() / whole) if whole > 0 else 0.0
