"""The options of `switchq ptq` as one object, and what can be told of them before anything is read."""

from dataclasses import dataclass
from typing import Any

from switchq.commands.comparison_options import ComparisonOptions
from switchq.errors import UserError
from switchq.posttraining.ptq.method import Method, load_methods
from switchq.posttraining.ptq.plan import pick_methods


@dataclass(frozen=True, kw_only=True)
class PtqOptions(ComparisonOptions):
    """The arguments of `switchq.verbs_ptq.ptq`, which explains them."""

    model: str | None
    methods: list[str] | None
    define: dict[str, Any] | None
    checkpoint: str | None
    offload: bool
    save: str | None
    save_format: str

    def check(self) -> None:
        """What can be told before anything is read.

        Raises:
            UserError: a number out of range, nothing to quantise or to score.
        """
        if self.model is None and self.checkpoint is None:
            raise UserError("give --model, the model to quantise, or --config with a model in it")
        super().check()
        if self.methods is not None and not self.methods:
            raise UserError("--methods names none")
        if self.save is None and self.save_format != "hf":
            raise UserError(f"--save_format {self.save_format} is of models that are saved: give --save FOLDER")

    def picked_methods(self) -> list[Method]:
        """The methods to run.

        Raises:
            UserError: an unknown name, or a definition that is not one.
        """
        known = load_methods()
        for name, content in (self.define or {}).items():
            if not isinstance(content, dict):
                raise UserError(f"define: method {name} is not written as a rounder, transforms and a grid")
            known[name] = Method.from_dict(name, content)
        return pick_methods(self.methods or list(known), known)
