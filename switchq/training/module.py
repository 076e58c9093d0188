"""The LightningModule: carries out a plan of passes, whatever schedule wrote it.

One training step, for every pass of the plan: set the bitmap, forward, cross-entropy plus distillation from the
detached predictions of earlier passes, backward; then one optimiser step (or one after every pass that asks for it).
Optimisation is manual: the optimiser, clipping and the learning rate are in `optimisation.py`, from this module's own
arguments.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from switchq.bitmap import Bitmap, check_width, ladder
from switchq.data.batches import counted
from switchq.errors import UserError
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.models.device import own_gpu
from switchq.models.load import Dtype, blocks_of
from switchq.models.switchable import Extra
from switchq.nn import get_switch, set_bitmap
from switchq.nn.starts import SharedStart, Start
from switchq.quant import Grid, Symmetric
from switchq.training.block_start import start_by_block
from switchq.training.calibrated_start import start_from_inputs
from switchq.training.identity import BaseIdentity
from switchq.training.losses import LossFunctions
from switchq.training.optimisation import OptimisationMixin
from switchq.training.pass_gradients import PassGradients
from switchq.training.passes import Pass, Plan, check_accumulation, shares, targets
from switchq.training.saving import SavingMixin
from switchq.training.scoring import ScoringMixin
from switchq.training.switch_dropout import switch_some
from switchq.training.teaching import Places, Seen, StoredTeacher, Teaching, Tokens, pass_loss
from switchq.words import count_of

WITH_DATA: tuple[Start, ...] = ("qera", "apiq")
"""Starts that look at training data."""

Decay = Literal["constant_with_warmup", "linear", "cosine"]


class SwitchableModule(OptimisationMixin, SavingMixin, ScoringMixin):
    """A causal language model that is trained at many bitmaps at once.

    Args:
        base: the pretrained model, by Hub name or local folder.
        bits: the widths that get an adapter each; any of 2 to 8, and 16 for an adapter of the unquantised model.
        grid: where weights are rounded to.
        rank: width -> LoRA rank (16, 32 and 64 at 8, 4 and 2 bits by default); 0 for none where widths share an
            adapter or a trained base.
        alpha: width -> LoRA alpha (twice the rank by default).
        shared_rank: rank of one more adapter that runs at every width; 0 for none.
        adapter_dropout: LoRA dropout; not of a shared adapter with a start.
        switch_dropout: share of a pass's layers that run at another of `bits` than its bitmap says, drawn anew for
            every pass that learns; what is logged goes by the bitmap.
        adapter_start: `zero`; `loftq`: the SVD of what rounding to that width took away; `qera`: what is best for the
            layers' outputs on the first training batches; `apiq`: from there, trained block by block on these batches.
        shared_start: how the shared adapter starts: at `zero`; `qera`: on the same batches, at what the narrowest width
            rounds worst. That is taken out of the weights, which are rounded without it at every width.
        start_batches: training batches that `qera` and `apiq` look at.
        start_steps: of `apiq`, for each block and width.
        extra: also quantise the `head` and the `embeddings`.
        train_base: train the block linears' own weights too (straight-through), shared by all widths.
        learn_scales: train the grid's scales too, those of each width for itself.
        own_norms: give every width its own trained norms, started from the base's; such a model is not exported.
        dtype: of the frozen weights; adapters are float32.
        lr: peak learning rate of the adapters and of norms (AdamW).
        base_lr: peak learning rate of the base weights, if they are trained.
        scale_lr: peak learning rate of the logarithms of the scales, if they are trained.
        shared_lr: factor on the learning rate of the shared adapter. What starts at zero moves less at a rate than what
            starts at large factors (`shared_start`).
        width_lr: width -> factor on the learning rates of what is trained for that width alone; 1 by default.
        weight_decay: AdamW's, of all but scales, and a shared adapter with a start: it holds parts of the weights.
        decay: what the learning rate does after the warm-up.
        warmup_steps: optimiser steps over which the learning rate rises.
        max_grad_norm: the joint gradient norm is clipped to this; 0 turns clipping off.
        accumulate: batches per optimiser step, counted on from one epoch to the next; those that are left over at the
            end of a run are lost, and a run that prolongs it begins to count anew.
        balance: give all passes of a step gradients of the same norm on what they all train (`shared_rank`,
            `train_base`).
        kd_tokens: where passes learn from others: at the `answers` only, which have labels, or at `all` tokens.
        kd_top_k: of how many of the teacher's likeliest tokens (the others count as one more); 0 for all.
        kd_hidden: weight of matching the teacher's hidden states after every block, too, against 1 for its predictions.
        stored_kd: weight of the distillation from teacher predictions stored with the training data, if there are any.
        gradient_checkpointing: keep only the inputs of blocks, and run each block again in the backward pass: less
            memory for a third more compute.
        compile: run the blocks through torch.compile; blocks of the same widths share what is compiled.
        bitmaps: the bitmaps that are scored during and after training; 16 and the ladder of `bits` by default.

    Attributes:
        resumes: whether `fit` loads a checkpoint, whose adapters take the place of any start; Lightning loads it after
            `setup`, and does not say so before.
        plan: what the coming training step does; set by a schedule.
        waiting: batches whose gradients wait for the optimiser step; a run may stop only where there are none.
        latest: losses, norms and learning rate of the latest batch by name, as tensors, for a display; every
            `log_every_n_steps` batches they are logged.
    """

    def __init__(
        self,
        base: str = "gpt2",
        bits: Sequence[int] = (8, 4, 2),
        grid: Grid = Symmetric(),
        rank: dict[int, int] | None = None,
        alpha: dict[int, int] | None = None,
        shared_rank: int = 0,
        adapter_dropout: float = 0.0,
        switch_dropout: float = 0.0,
        adapter_start: Start = "zero",
        shared_start: SharedStart = "zero",
        start_batches: int = 8,
        start_steps: int = 100,
        extra: Sequence[Extra] = (),
        train_base: bool = False,
        learn_scales: bool = False,
        own_norms: bool = False,
        dtype: Dtype = "float32",
        lr: float = 5e-4,
        base_lr: float = 2e-5,
        scale_lr: float = 1e-3,
        shared_lr: float = 1.0,
        width_lr: dict[int, float] | None = None,
        weight_decay: float = 0.0,
        decay: Decay = "cosine",
        warmup_steps: int = 20,
        max_grad_norm: float = 1.0,
        accumulate: int = 1,
        balance: bool = False,
        kd_tokens: Tokens = "answers",
        kd_top_k: int = 0,
        kd_hidden: float = 0.0,
        stored_kd: float = 1.0,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        bitmaps: Sequence[str | int] | None = None,
    ) -> None:
        super().__init__()
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for width in bits:
            check_width(width)
        for name, value, least in (
            ("accumulate", accumulate, 1),
            ("start_batches", start_batches, 1),
            ("start_steps", start_steps, 1),
            ("lr", lr, 0),
            ("base_lr", base_lr, 0),
            ("kd_top_k", kd_top_k, 0),
            ("kd_hidden", kd_hidden, 0),
            ("scale_lr", scale_lr, 0),
            ("shared_rank", shared_rank, 0),
            ("weight_decay", weight_decay, 0),
            ("warmup_steps", warmup_steps, 0),
            ("max_grad_norm", max_grad_norm, 0),
        ):
            if not value >= least:
                raise UserError(f"model.{name} must be at least {least}, not {value}")
        if not shared_lr > 0:
            raise UserError(f"model.shared_lr must be above 0, not {shared_lr}")
        if shared_lr != 1 and not shared_rank:
            raise UserError("model.shared_lr is the shared adapter's: give model.shared_rank")
        for name, share in (("adapter_dropout", adapter_dropout), ("switch_dropout", switch_dropout)):
            if not 0 <= share < 1:
                raise UserError(f"model.{name} must be at least 0 and below 1, not {share}")
        if balance and not (shared_rank or train_base):
            raise UserError("model.balance is about what all widths train: give model.shared_rank or model.train_base")
        if shared_start != "zero" and adapter_start not in WITH_DATA:
            raise UserError(f"model.shared_start {shared_start} goes with model.adapter_start {' or '.join(WITH_DATA)}")
        for width, factor in (width_lr or {}).items():
            if width not in bits or not factor > 0:
                raise UserError(
                    f"model.width_lr gives {width} bits the factor {factor}, which must be above 0, and of one of "
                    f"model.bits {list(bits)}; a configuration may set either"
                )
        self.save_hyperparameters(_plain(settings))
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are not in a checkpoint, whose names are looked at before
        self.model = load_model(base, dtype)
        self.tokenizer = load_tokenizer(base)
        self.identity = BaseIdentity.of(base, self.model)
        make_switchable(
            self.model,
            bits,
            grid,
            rank=rank or {},
            alpha=alpha or {},
            shared_rank=shared_rank,
            dropout=adapter_dropout,
            start=adapter_start,
            shared_start=shared_start,
            extra=extra,
            train_base=train_base,
            learn_scales=learn_scales,
            own_norms=own_norms,
            fit_on=own_gpu(),
        )
        if gradient_checkpointing:
            enable = getattr(self.model, "activation_checkpointing_enable", None)  # its name in newer transformers
            enable = enable or self.model.gradient_checkpointing_enable
            enable({"use_reentrant": False, "preserve_rng_state": True})
        self.model.train()  # `load_model` gives it in evaluation mode, where its own dropout would stay off
        scored = bitmaps or ("16", *(rung for rung in ladder(bits) if rung != "16"))
        self.bitmaps = tuple(map(str, scored))
        for written in self.bitmaps:
            Bitmap.parse(written, get_switch(self.model).names)
        self.resumes = False
        self.plan: Plan = ()
        self.waiting = 0
        self.latest: dict[str, Tensor] = {}
        self._unlogged: dict[str, Tensor] = {}  # the last of each, as turns may miss the batches that are logged
        self._losses = LossFunctions()
        self._teaching = Teaching(kd_tokens, kd_top_k, kd_hidden)

    def setup(self, stage: str) -> None:
        """Start the adapters from data, if that was asked for and the run is a new one."""
        start = self.hparams["adapter_start"]
        if stage == "fit" and start in WITH_DATA and not self.resumes:
            source: LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
            if source is None:
                raise UserError(f"adapter_start {start} looks at training data, and there is no data module: use loftq")
            self.to(self.trainer.strategy.root_device)
            batches = [counted(one) for one in islice(source.train_dataloader(), self.hparams["start_batches"])]
            seen = sum((one["attention_mask"].sum() for one in batches), torch.zeros(()))
            if not self.joint_sum(seen.to(self.device)):
                raise UserError(f"adapter_start {start}: nothing to learn of in {count_of(len(batches), 'batch')}")
            started = start_from_inputs(self.model, batches, joint=self.joint_sum, alike=self.of_first)
            self.align_adapters()
            if start == "apiq":
                widths = self.hparams["bits"] if started else ()
                steps, first = self.hparams["start_steps"], self.global_rank == 0
                start_by_block(self.model, batches, widths, steps, self.joint_sum, progress=first)
                self.align_adapters()

    def on_fit_start(self) -> None:
        """Check the trainer, and compile if asked to."""
        self.check_trainer(self.trainer)
        if self.hparams["compile"]:
            torch._dynamo.config.recompile_limit = 64
            torch._dynamo.config.optimize_ddp = False  # it cuts graphs where DDP would send gradients, which is off
            for block in blocks_of(self.model):  # they share what is compiled, and a model of any depth takes as long
                block.compile(dynamic=True)
            self._losses = LossFunctions().compiled()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Carry out the plan on one right-padded batch of `input_ids`, `attention_mask` and `labels`, each (B, T)."""
        plan, weights = self.plan, shares(self.plan)
        if not plan:
            raise UserError("no schedule has set a plan: add one (--schedule SPNet)")
        accumulate = self.hparams["accumulate"]
        check_accumulation(plan, accumulate)
        self.waiting += 1
        steps_now = self.waiting == accumulate
        last_pupils = {teacher: index for index, one in enumerate(plan) for teacher in one.teachers}
        teachers: dict[int, Seen] = {}
        logs: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        due = (self.trainer.fit_loop.total_batch_idx + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        balance = self.hparams["balance"]
        measured = due or any(f"gradient norm/{one.label}" not in self._unlogged for one in plan if one.learns)
        collected = PassGradients(self.trained_parameters(), self.sums) if measured or balance else None
        inputs, where_N, targets_N = targets(batch)
        places = Places.of(batch, where_N, self._teaching.tokens, self.joint_count)
        stored = StoredTeacher.of(batch, where_N, self.hparams["stored_kd"])
        seed = self.global_step * 1_000_003 + self.waiting + self.global_rank * 1_000_000_007
        for index, one in enumerate(plan):
            set_bitmap(self.model, self._bitmap(one, index), one.adapters)
            _generator(self.device).manual_seed(seed)  # the same dropout in every pass, or distillation learns noise
            with torch.set_grad_enabled(one.learns):
                seen = self._teaching.look(self.model, inputs, places)
            if index in last_pupils:
                teachers[index] = seen.detached()
            if one.learns:
                loss, own = pass_loss(one, seen, targets_N, teachers, places, self._teaching, stored, self._losses)
                with self.unsynchronised(), collected.of(one.label, weights[index]) if collected else nullcontext():
                    self.manual_backward(loss * (weights[index] / accumulate))
                parts |= {f"{part}/{one.label}": value for part, value in own.items()}
                losses.append(loss.detach())
            teachers = {teacher: own for teacher, own in teachers.items() if index < last_pupils[teacher]}
            ends = one.step or index == len(plan) - 1
            if ends and collected:
                logs |= collected.merge(balance)
            if ends and steps_now:
                self.take_step(batch_idx, [one.label for one in plan[: index + 1] if one.learns], losses, logs)
        parts["loss"] = torch.stack(losses).mean()
        self.add_up(list(parts.values()))
        logs |= parts
        self.latest = logs
        self._unlogged |= logs
        if due:  # Lightning's bookkeeping costs more than a small step, and only these reach the logger
            self.log_dict(self._unlogged, batch_size=len(inputs["input_ids"]))
            self._unlogged = {}

    def _bitmap(self, one: Pass, index: int) -> Bitmap:
        """What pass `index` of the plan runs at, on all devices alike: they must train the same adapters."""
        share = self.hparams["switch_dropout"]
        if not (one.learns and share):
            return one.bitmap
        return switch_some(one.bitmap, self.hparams["bits"], share, f"{self.global_step}/{self.waiting}/{index}")


def _generator(device: torch.device) -> torch.Generator:
    """The default generator of `device`; `torch.manual_seed` would go through those of all devices, at some cost."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def _plain(value: Any) -> Any:
    """`value` in types that a checkpoint can be read back with safely."""
    if isinstance(value, Grid):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
