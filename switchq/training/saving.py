"""Saving a switchable module: a checkpoint holds what is trained and says of which base; frozen weights stay out."""

from typing import Any

from switchq.errors import UserError
from switchq.training.devices import DevicesMixin
from switchq.training.identity import BaseIdentity


class SavingMixin(DevicesMixin):
    """Lightning's checkpoint hooks.

    Attributes:
        identity: which base model this is.
    """

    identity: BaseIdentity

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen base from the checkpoint, and say which base it was."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in trained}
        checkpoint["base"] = self.identity.to_dict()
        if not self.is_sharded:
            self._number_as_sharded(checkpoint["optimizer_states"])

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
        """Check that the checkpoint belongs to this base and these adapters, and fill in the frozen weights."""
        self.identity.check(checkpoint.get("base", {}))
        if "state_dict" not in checkpoint:
            return  # a strategy for sharded models has loaded it
        own = self.state_dict()
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        saved = checkpoint["state_dict"]
        wrong = sorted(trained ^ set(saved)) or [name for name in trained if own[name].shape != saved[name].shape]
        if wrong:
            raise UserError(
                f"the checkpoint's adapters do not fit this model (first difference: {wrong[0]}); "
                f"use the same bits, rank and train_base as in training"
            )
        checkpoint["state_dict"] = own | saved
