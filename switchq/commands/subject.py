"""What the commands after training work on: a trained checkpoint, or a plain model made switchable on the spot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.commands.rounded import check_base
from switchq.data.generated import is_generated
from switchq.data.modules import training_split
from switchq.data.prompt import Prompt
from switchq.data.squad import Question, read_squad
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.inference import SwitchableLM
from switchq.inference.source import Prefer
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.models.device import own_gpu
from switchq.quant import Asymmetric, Grid, Nested, Symmetric
from switchq.training.checkpoint import read_checkpoint, restore_module
from switchq.training.identity import BaseIdentity

PLAIN_BITS = (8, 4, 2)
"""The widths of a plain model, unless told otherwise."""

GRIDS: Mapping[str, type[Grid]] = {"symmetric": Symmetric, "asymmetric": Asymmetric, "nested": Nested}
"""The grids of a plain model, by what `--grid` calls them."""


@dataclass(frozen=True)
class Subject:
    """A switchable model, and what its training says about how to treat it.

    Attributes:
        model: the switchable model, on the CPU until it is moved.
        tokenizer: its tokenizer.
        identity: name and content hash of the base.
        widths: the widths that it was trained at, or that a plain model is to be tried at.
        checkpoint: the file or artifact that it came from; None for a plain model.
        settings: the options of its training; of a plain model, its grid.
        data: the options of the data that it was trained on; empty for a plain model.
        base: where the checkpoint's base was said to lie now; None if it was not said.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: BaseIdentity
    widths: Sequence[int]
    checkpoint: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None

    @property
    def name(self) -> str:
        """What to call it in a title."""
        return self.checkpoint or self.identity.name

    @property
    def options(self) -> list[str]:
        """The options that give another command the same checkpoint or plain model; those at their defaults are left
        out."""
        if self.checkpoint:
            return ["--ckpt", self.checkpoint, *(["--base", self.base] if self.base is not None else [])]
        grid = self.settings["grid"]
        group_size, scale = grid["init_args"]["group_size"], grid["init_args"]["scale"]
        options = ["--model", self.name]
        options += ["--grid", grid["class_path"].lower()] if grid["class_path"] != "Symmetric" else []
        options += ["--group_size", str(group_size)] if group_size is not None else []
        options += ["--scale", str(scale)] if scale != "absmax" else []
        return options

    @property
    def holds_out(self) -> bool:
        """Whether its training had questions to hold out."""
        return "holdout" in self.data and not is_generated(self.data["train"])

    @property
    def prompt(self) -> Prompt:
        """How a question becomes text, as in training."""
        return Prompt(**{name: self.data[name] for name in ("template", "no_answer") if name in self.data})

    @property
    def max_answer_tokens(self) -> int:
        """Most tokens of an answer, as in training."""
        return int(self.data.get("max_answer_tokens", 32))

    def training_questions(self, source: str | None, count: int, seed: int = 0) -> list[Question]:
        """Questions that may be looked at as often as one likes: from training data, but not trained on.

        Args:
            source: SQuAD-style JSON file or Hub name (its `train` split). By default the questions that the
                checkpoint's training held out.
            count: how many to draw at most.
            seed: of the draw.

        Raises:
            UserError: no source where one is needed, a source that cannot be read, none held out.
        """
        if source is not None:
            return subset(read_squad(source, "train"), count, seed)
        if not self.holds_out:
            raise UserError("there are no held-out training questions to use: give --data FILE (training questions)")
        questions, _ = training_split(self.data)
        if not questions:
            raise UserError("the training held out no questions (data.holdout was 0): give --data FILE")
        return subset(questions, count, seed)


def load_subject(
    ckpt: str | None,
    model: str | None,
    *,
    base: str | None = None,
    bits: Sequence[int] | None = None,
    grid: str | None = None,
    group_size: int | None = None,
    scale: Any = None,
) -> Subject:
    """Load a checkpoint, or a plain model.

    Args:
        ckpt: checkpoint of `switchq fit`.
        model: instead of a checkpoint: a model by Hub name or folder, rounded without training.
        base: where the checkpoint's base lies now, if it has moved.
        bits: the widths of a plain model; 8, 4 and 2 by default.
        grid: of a plain model: `symmetric` (by default), `asymmetric` or `nested`.
        group_size: of a plain model: inputs that share a scale; one scale per output row by default.
        scale: of a plain model: `absmax` (by default) or `mse`.

    Raises:
        UserError: both or neither of `ckpt` and `model`, a grid for a checkpoint, or what loading them raises.
    """
    if (ckpt is None) == (model is None):
        raise UserError("give either --ckpt (a trained checkpoint) or --model (a plain model)")
    if ckpt is not None:
        if (grid, group_size, scale) != (None, None, None):
            raise UserError("--grid, --group_size and --scale are for a plain model: a checkpoint keeps its own grid")
        checkpoint = read_checkpoint(ckpt)
        module = restore_module(checkpoint, base)
        data = dict(checkpoint.get("datamodule_hyper_parameters", {}))
        return Subject(
            module.model,
            module.tokenizer,
            module.identity,
            module.hparams["bits"],
            str(Path(ckpt)),
            dict(module.hparams),
            data,
            base,
        )
    check_base(str(model))
    network, tokenizer = load_model(str(model)), load_tokenizer(str(model))
    identity = BaseIdentity.of(str(model), network)
    chosen = GRIDS[grid or "symmetric"](group_size=group_size, scale=scale or "absmax")
    widths = tuple(bits or PLAIN_BITS)
    make_switchable(network, widths, chosen, adapters=False, fit_on=own_gpu())
    return Subject(network, tokenizer, identity, widths, settings={"grid": chosen.to_dict()})


def load_artifact(folder: str, place: torch.device, others: Mapping[str, Any], prefer: Prefer = "speed") -> Subject:
    """Load an artifact.

    Args:
        folder: what `switchq export` wrote.
        place: where it is to run.
        others: option -> value of the options that are not for artifacts.
        prefer: see `SwitchableLM.from_pretrained`.

    Raises:
        UserError: one of `others` is given, or what loading it raises.
    """
    given = [f"--{name}" for name, value in others.items() if value is not None]
    if given:
        raise UserError(f"{given[0]} is not for an artifact: it holds its base, its grid and its adapters")
    lm = SwitchableLM.from_pretrained(folder, device=place, prefer=prefer)
    manifest = lm.artifact.manifest
    return Subject(
        lm.model,
        lm.tokenizer,
        BaseIdentity(manifest.base["name"], manifest.base["sha256"]),
        manifest.widths,
        str(Path(folder)),
        {
            "grid": dict(manifest.grid),
            "artifact": str(Path(folder)),
            "artifact_sha256": manifest.to_json()["sha256"],
            "prefer": prefer,
        },
        dict(manifest.data),
    )
