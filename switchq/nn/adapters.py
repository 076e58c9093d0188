"""One LoRA adapter per bit-width, held by peft under the names `bits_8`, `bits_4`, ..., and one that all widths share.

The shared adapter learns the task from every pass; those of the widths make up for rounding. peft builds, saves and
loads them; where they start is in `switchq.nn.starts`. An adapter's contribution is y += (alpha / r) B A x with A
(R, I) and B (O, R), computed in `switchq.nn.lora`.
"""

import re
import warnings
from collections.abc import Mapping, Sequence

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.nn.linear import QuantLinear
from switchq.nn.lora import SwitchedLora

DEFAULT_RANKS = {8: 16, 7: 16, 6: 16, 5: 32, 4: 32, 3: 32, 2: 64, FULL: 16}
"""Ranks grow as bits fall: 16, 32 and 64 at 8, 4 and 2 bits."""

SHARED = "shared"
"""The peft adapter name of the adapter that runs at every width."""

TAKEN = "taken"
"""The peft adapter name of what was taken out of the weights. It is frozen, and runs where the others are switched off.
"""


def adapter_name(bits: int) -> str:
    """The peft adapter name of a width."""
    return f"bits_{bits}"


def adapter_configs(
    widths: Sequence[int],
    targets: Sequence[str],
    ranks: Mapping[int, int] = {},
    alphas: Mapping[int, int] = {},
    dropout: float = 0.0,
    shared_rank: int = 0,
    optional: bool = False,
    taken: bool = False,
) -> dict[str, LoraConfig]:
    """Adapter name -> peft configuration.

    Args:
        widths: those that get an adapter each, unless their rank is 0.
        targets: names of the linears inside a block.
        ranks: width -> rank; `DEFAULT_RANKS` for those left out.
        alphas: width -> alpha; twice the rank for those left out.
        dropout: on the adapters' input.
        shared_rank: of the adapter that all widths share; 0 for none.
        optional: whether a width may go without an adapter, because something else is trained.
        taken: whether to add one, as the shared one, that holds what was taken out of the weights; neither has dropout,
            which would drop parts of the weights.

    Raises:
        UserError: a rank below 0; a rank of 0 where the width would have nothing to train, or where something is to be
            taken out; an alpha below 1.
    """
    if taken and shared_rank < 1:
        raise UserError("there is no shared adapter to start: give it a rank (shared_rank)")
    for bits, alpha in alphas.items():
        if alpha < 1:
            raise UserError(f"the alpha of the {bits}-bit adapter is {alpha}: use 1 or more")
    chosen = {adapter_name(bits): (ranks.get(bits, DEFAULT_RANKS[bits]), alphas.get(bits)) for bits in widths}
    for name, (rank, _) in ({SHARED: (shared_rank, None)} | chosen).items():
        if rank < 0 or (rank == 0 and name != SHARED and not (shared_rank or optional)):
            what = "shared adapter" if name == SHARED else f"{name.rpartition('_')[2]}-bit adapter"
            raise UserError(
                f"the rank of the {what} is {rank}: use 1 or more, or 0 where widths share an adapter or a trained base"
            )
    common = (SHARED, TAKEN) if taken else (SHARED,)
    return {
        name: LoraConfig(
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,
            lora_dropout=0.0 if taken and name in common else dropout,
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        )
        for name, (rank, alpha) in (dict.fromkeys(common, (shared_rank, None)) | chosen).items()
        if rank > 0
    }


def add_adapters(model: nn.Module, configs: Mapping[str, LoraConfig]) -> None:
    """Inject adapters into `model`, in place; they are float32, start at zero, and all but what was taken out of the
    weights is trainable, whatever the base is.

    Args:
        model: a model whose block linears are `QuantLinear`.
        configs: what `adapter_configs` gives.
    """
    for name, config in configs.items():
        config._register_custom_module({QuantLinear: SwitchedLora})
        with warnings.catch_warnings():
            # A second adapter of another name is what we are here for.
            warnings.filterwarnings("ignore", message=".*[Aa]lready found a `peft_config`.*")
            inject_adapter_in_model(config, model, adapter_name=name)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(not is_taken(name))


def is_adapter(parameter: str) -> bool:
    """Whether the parameter of that dotted name belongs to an adapter."""
    return ".lora_" in parameter


def is_shared(parameter: str) -> bool:
    """Whether the parameter of that dotted name belongs to the adapter that all widths share."""
    return f".{SHARED}." in parameter


def is_taken(parameter: str) -> bool:
    """Whether the parameter of that dotted name holds what was taken out of the weights."""
    return f".{TAKEN}." in parameter


def width_of(parameter: str) -> int | None:
    """The width that the parameter of that dotted name is trained for alone: an adapter's, a learned scale's."""
    found = re.search(r"\.bits_(\d+)\.|_(\d+)bit$", parameter)
    return int(found[1] or found[2]) if found else None
