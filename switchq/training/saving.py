"""Saving a switchable module: a checkpoint holds what is trained and says of which base; frozen weights stay out."""

from typing import Any

from lightning.pytorch import LightningModule

from switchq.errors import UserError
from switchq.training.identity import BaseIdentity


class SavingMixin(LightningModule):
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
