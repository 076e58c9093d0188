"""Manual optimisation: one optimiser, its learning-rate schedule, clipping, and the step itself, on all devices.

Lightning leaves these to a module that calls backward several times a step.
"""

import math
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from transformers import PreTrainedModel, get_scheduler

from switchq.errors import UserError
from switchq.nn.adapters import is_adapter, is_shared, width_of
from switchq.nn.norm import is_own_norm
from switchq.nn.weight import is_scale
from switchq.training.devices import DevicesMixin, check_strategy, whole
from switchq.training.losses import non_finite
from switchq.training.passes import Plan


class OptimisationMixin(DevicesMixin):
    """The optimiser of a module that carries out plans.

    Attributes:
        plan: what the coming training step does.
        waiting: batches whose gradients wait for the optimiser step.
    """

    model: PreTrainedModel
    plan: Plan
    waiting: int

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuse what manual optimisation over several passes cannot honour.

        Raises:
            UserError: see above; the message names what to use instead.
        """
        check_strategy(trainer)
        if str(trainer.precision) == "16-mixed":
            raise UserError("16-mixed needs loss scaling, which a plan of passes does not do: use bf16-mixed")
        if trainer.gradient_clip_val:
            raise UserError(
                "clipping is up to the model here: use --model.max_grad_norm, not trainer.gradient_clip_val"
            )
        if trainer.accumulate_grad_batches != 1:
            raise UserError("accumulation is up to the model here: use --model.accumulate, not the trainer's own")

    def configure_optimizers(self) -> Any:
        """AdamW over everything that is trainable, with a `transformers` learning-rate schedule per optimiser step."""
        factors = self.hparams["width_lr"] or {}
        decay, started = self.hparams["weight_decay"], self.hparams["shared_start"] != "zero"
        groups: dict[tuple[str, float, float], list[Tensor]] = {
            ("lr", 1.0, decay): [], ("scale_lr", 1.0, 0.0): [], ("base_lr", 1.0, decay): [],
        }  # fmt: skip
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                own = is_adapter(name) or is_own_norm(name)
                rate = "lr" if own else "scale_lr" if is_scale(name) else "base_lr"
                shared = self.hparams["shared_lr"] if is_shared(name) else 1.0
                factor = shared * factors.get(width_of(name), 1.0)
                decays = not is_scale(name) and not (started and is_shared(name))
                groups.setdefault((rate, factor, decay if decays else 0.0), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": self.hparams[rate] * factor, "weight_decay": decays}
                for (rate, factor, decays), parameters in groups.items()
                if parameters
            ],
            fused=True,  # hundreds of small tensors: one kernel instead of a few for each
        )
        scheduler = get_scheduler(
            self.hparams["decay"],
            optimizer,
            num_warmup_steps=self.hparams["warmup_steps"],
            num_training_steps=self.optimizer_steps(),
        )
        return [optimizer], [scheduler]

    def optimizer_steps(self) -> int:
        """Optimiser steps of the whole run; the trainer's own estimate counts one a batch."""
        trainer = self.trainer
        limit = trainer.max_steps if trainer.max_steps > 0 else math.inf
        if trainer.max_epochs not in (None, -1):
            trainer.fit_loop.setup_data()
            per_batch = max(1, sum(one.step or one is self.plan[-1] for one in self.plan))
            batches = int(trainer.num_training_batches * trainer.max_epochs)
            limit = min(limit, batches * per_batch // self.hparams["accumulate"])
        return max(1, int(limit))

    def take_step(self, batch_idx: int, labels: list[str], losses: list[Tensor], logs: dict[str, Tensor]) -> None:
        """Clip, check, step, and move the learning rate on.

        Args:
            batch_idx: of the batch, for the message.
            labels: of the passes since the last step.
            losses: theirs.
            logs: receives the joint gradient norm and the learning rate.

        Raises:
            UserError: a loss or the gradient is not finite; it names the step and the bitmap.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        limit = self.hparams["max_grad_norm"] or float("inf")
        joint = [loss.clone() for loss in losses]
        self.add_up([*joint, *(one.grad for one in self.trained_parameters() if one.grad is not None)])
        norm = whole(torch.nn.utils.clip_grad_norm_(self.trained_parameters(), limit))
        bad = non_finite([*labels, "all"], [*joint, norm])
        if bad:
            what = "the gradient" if bad == "all" else f"the loss at bitmap {bad}"
            raise UserError(
                f"{what} is not a finite number at step {self.global_step} (batch {batch_idx}): lower --model.lr; "
                f"the last good checkpoint is untouched"
            )
        optimizer.step()  # type: ignore[union-attr]
        torch.clear_autocast_cache()  # it holds low-precision copies of what was just changed
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.waiting = 0
        logs["learning rate"] = torch.tensor(scheduler.get_last_lr()[0])  # type: ignore[union-attr]
        logs["gradient norm/joint"] = norm.detach()
        scheduler.step()  # type: ignore[union-attr]

    def trained_parameters(self) -> list[Tensor]:
        """The trained tensors, from the optimiser: a walk through the modules would cost as much as a small forward."""
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        return [parameter for group in groups for parameter in group["params"]]
