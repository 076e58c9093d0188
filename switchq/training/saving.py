"""Saving a switchable module: a checkpoint holds what is trained and says of which base; frozen weights stay out.

What was taken out of the weights before they were rounded is in it, too, and is taken out again when it is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from switchq.errors import UserError, check_unchanged
from switchq.models.device import own_gpu
from switchq.models.switchable import prepare_widths
from switchq.nn import switch_layers
from switchq.nn.adapters import TAKEN, is_taken
from switchq.nn.starts import take_out
from switchq.training.devices import DevicesMixin
from switchq.training.identity import BaseIdentity

MODEL = (
    "bits", "rank", "alpha", "shared_rank", "shared_start", "grid", "extra", "train_base", "learn_scales", "own_norms",
)  # fmt: skip
"""Options without which a checkpoint's parameters mean something else."""

RATES = ("lr", "base_lr", "scale_lr", "shared_lr", "width_lr", "weight_decay")
"""Options that the state of the optimiser holds: what a run that goes on is told instead would not count."""


class SavingMixin(DevicesMixin):
    """Lightning's checkpoint hooks.

    Attributes:
        identity: which base model this is.
        resumes: whether training goes on from the checkpoint.
    """

    identity: BaseIdentity
    resumes: bool

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen base from the checkpoint, and say which base it was."""
        held = self._held
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in held}
        checkpoint["base"] = self.identity.to_dict()
        if not self.is_sharded:
            self._number_as_sharded(checkpoint["optimizer_states"])

    @property
    def _held(self) -> set[str]:
        """The names of the parameters that a checkpoint holds."""
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad or is_taken(name)}

    @torch.no_grad()
    def _take_out(self, saved: Mapping[str, Tensor]) -> None:
        """Take out of the weights what a checkpoint's training did.

        Raises:
            UserError: something else was taken out before.
        """
        own = {name: value for name, value in self.state_dict().items() if is_taken(name)}
        layers = [layer.lora for layer in switch_layers(self.model) if layer.lora is not None] if own else []
        done = [layer for layer in layers if layer.get_base_layer().is_taken_out]
        if done and any(not torch.equal(value, saved[name].to(value.device)) for name, value in own.items()):
            raise UserError(
                "the checkpoint is of another start than this model's: load it into a new one, and say so before "
                "(module.resumes = True)"
            )
        for name, value in own.items():
            value.copy_(saved[name])
        for layer in layers if not done else ():
            take_out(layer)
        if layers and not done:
            prepare_widths(self.model, own_gpu())

    def _check_taken_out(self) -> None:
        """Make sure that weights are less what their adapters hold.

        Raises:
            UserError: they are whole.
        """
        layers = [layer.lora for layer in switch_layers(self.model) if layer.lora is not None]
        if any(TAKEN in layer.lora_A and not layer.get_base_layer().is_taken_out for layer in layers):
            raise UserError(
                "this checkpoint needs to be known before its model is sharded: call "
                "module.on_load_checkpoint(read_checkpoint(path)) first, as switchq fit --ckpt_path does"
            )

    def _number_as_sharded(self, states: list[dict[str, Any]]) -> None:
        """Number parameters in the optimisers' states as `parameters()` does, which a sharded run goes by.

        Any other goes by their order alone, so that one file serves all.
        """
        places = {parameter: number for number, parameter in enumerate(self.parameters())}
        for optimizer, state in zip(self.trainer.optimizers, states, strict=True):
            numbers: dict[int, int] = {}
            for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
                own = [places[parameter] for parameter in group["params"]]
                numbers |= zip(saved["params"], own, strict=True)
                saved["params"] = own
            state["state"] = {numbers[number]: value for number, value in state["state"].items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this base and these options; all that is not in it is there already.

        Raises:
            UserError: it does not.
        """
        self.identity.check(checkpoint.get("base", {}))
        names = MODEL + (RATES if self.resumes else ())
        before, now = (_options(settings, names) for settings in (checkpoint.get("hyper_parameters", {}), self.hparams))
        check_unchanged("model", before, now)
        if "state_dict" not in checkpoint:
            self._check_taken_out()  # a strategy for sharded models has loaded it
            return
        own, held, saved = self.state_dict(), self._held, checkpoint["state_dict"]
        wrong = sorted(held ^ set(saved)) or [name for name in held if own[name].shape != saved[name].shape]
        if wrong:
            raise UserError(
                f"the checkpoint's adapters do not fit this model (first difference: {wrong[0]}); "
                f"use the same options as in training"
            )
        self._take_out(saved)


def _options(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of `names` that there are, each argument of a grid by itself."""
    found: dict[str, Any] = {}
    for name in names:
        value = settings.get(name)
        if name == "grid" and value is not None:
            found[name] = value["class_path"]
            found |= {f"{name}.{key}": one for key, one in value["init_args"].items()}
        elif name in settings:
            found[name] = value
    return found
