"""One LoRA adapter per bit-width, held by peft under the names `bits_8`, `bits_4`, ..., and one that all widths share.

The shared adapter learns the task from every pass; those of the widths make up for rounding. peft builds, saves and
loads the adapters; this file adds the starts that depend on the width. An adapter's contribution is
y += (alpha / r) B A x with A (R, I) and B (O, R), computed in `switchq.nn.lora`.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.nn.linear import QuantLinear
from switchq.nn.lora import SwitchedLora
from switchq.quant import Grid

Start = Literal["zero", "loftq", "qera", "apiq"]
"""The last two need data, and come after `add_adapters`: `switchq.training.calibrated_start` and `block_start`."""

DEFAULT_RANKS = {8: 16, 7: 16, 6: 16, 5: 32, 4: 32, 3: 32, 2: 64, FULL: 16}
"""Ranks grow as bits fall: 16, 32 and 64 at 8, 4 and 2 bits."""


SharedStart = Literal["zero", "qera"]
"""The last one needs data, as above, and takes what it starts with out of the weights."""

SHARED = "shared"
"""The peft adapter name of the adapter that runs at every width."""

TAKEN = "taken"
"""The peft adapter name of what was taken out of the weights. It is frozen, and runs where the others are switched off.
"""

ROUNDS = 4
"""Times that a weight is rounded and the shared adapter found, in turns, for its start."""


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


def add_adapters(model: nn.Module, configs: Mapping[str, LoraConfig], start: Start = "zero") -> None:
    """Inject adapters into `model`, in place; they are float32 and trainable whatever the base is.

    Args:
        model: a model whose block linears are `QuantLinear`.
        configs: what `adapter_configs` gives.
        start: `zero` leaves the model's outputs unchanged; `loftq` starts each adapter at the best rank-R approximation
            of what rounding to its width took away (LoftQ, Li et al. 2023, arXiv:2310.08659, with a single step, so
            that the codes do not depend on the adapter); the shared one starts at zero, and all do with a start that
            needs data.
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
    if start == "loftq":
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                for name in configs:
                    if name not in (SHARED, TAKEN):
                        start_at_residual(layer, name)


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


@dataclass(frozen=True)
class Metric:
    """What tells which errors of a weight matter: |E S|_F^2 = E |E x|^2 for inputs x with the Gram matrix S S^T.

    Attributes:
        root_II: S, symmetric.
        inverse_II: its inverse.
    """

    root_II: Tensor
    inverse_II: Tensor

    @classmethod
    def of(cls, gram_II: Tensor, damping: float = 1e-3) -> "Metric":
        """From E[x x^T], to whose diagonal `damping` times its mean is added."""
        gram_II = gram_II.double()
        values_I, vectors_II = torch.linalg.eigh(gram_II)
        least = damping * gram_II.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        root_I = (values_I.clamp(min=0) + least).sqrt()
        return cls(((vectors_II * root_I) @ vectors_II.T).float(), ((vectors_II / root_I) @ vectors_II.T).float())


@torch.no_grad()
def start_at_residual(layer: LoraLayer, name: str, metric: Metric | None = None) -> None:
    """B A = the best rank-R approximation of (W - Q(W)) / scaling, singular values split evenly between the factors.

    Without a metric it is the truncated SVD of the residual E (LoftQ). With one it is the truncated SVD of E S, times
    the inverse of S, which is best for the layer's outputs (QERA, Zhang et al., ICLR 2025, arXiv:2410.06040, theorem 1;
    here with a damped Gram matrix). Ranks beyond those of the weight keep the zero start, which lets them learn.

    Args:
        layer: a quantised linear with adapters.
        name: of the adapter of a width; at full precision nothing was taken away.
        metric: of the layer's inputs.
    """
    base, bits = layer.get_base_layer(), int(name.rpartition("_")[2])
    if bits == FULL or not isinstance(base, QuantLinear):
        return
    residual_OI = base.weight.float() - base.rounded(bits).float()
    _write(layer, name, *low_rank(residual_OI / layer.scaling[name], layer.r[name], metric))


@torch.no_grad()
def start_shared(layer: LoraLayer, bits: int, metric: Metric, alike: Callable[[Tensor], Tensor]) -> None:
    """Start the shared adapter at what rounding to `bits` does worst, see `in_turns`, and take it out of the weight.

    What is left is rounded from then on, at all widths: that one L serves the codes of every width is this project's.

    Args:
        layer: a quantised linear with a shared adapter, and one to hold what is taken out.
        bits: the narrowest width, which has most to gain.
        metric: of the layer's inputs.
        alike: gives all devices a tensor as the first has it: SVDs differ.
    """
    base = cast(QuantLinear, layer.get_base_layer())
    a_RI, b_OR = in_turns(base.weight.float(), base.grid, bits, layer.r[SHARED], metric)
    a_RI, b_OR = alike(a_RI.contiguous()), alike(b_OR / layer.scaling[SHARED])
    for name in (SHARED, TAKEN):
        _write(layer, name, a_RI, b_OR)
    take_out(layer)


def in_turns(weight_OI: Tensor, grid: Grid, bits: int, rank: int, metric: Metric | None) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) whose product L is, in the end, what is lost when the weight is rounded without it.

    From L = 0, `ROUNDS` times: L = the best rank-R approximation of W - Q(W - L), as in `start_at_residual`.
    Alternating is LoftQ's (Li et al. 2023, arXiv:2310.08659, algorithm 1), and LQ-LoRA's (Guo et al. 2024,
    arXiv:2311.12023), which weighs errors, too.
    """
    low_OI = torch.zeros_like(weight_OI)
    for _ in range(ROUNDS):
        left_OI = weight_OI - low_OI
        rounded_OI = grid.fake_quantize(left_OI, grid.fit(left_OI, bits), bits)
        a_RI, b_OR = low_rank(weight_OI - rounded_OI, rank, metric)
        low_OI = b_OR @ a_RI
    return a_RI, b_OR


@torch.no_grad()
def take_out(layer: LoraLayer) -> None:
    """Take what the layer's adapter for that holds out of its weight.

    The product is float64's: whether float32 products of a device are TF32's, when it is made first and when a
    checkpoint is loaded, makes no difference.
    """
    a_RI, b_OR = (cast(nn.Linear, part[TAKEN]).weight.double() for part in (layer.lora_A, layer.lora_B))
    cast(QuantLinear, layer.get_base_layer()).take_out((layer.scaling[TAKEN] * b_OR @ a_RI).float())


def low_rank(error_OI: Tensor, rank: int, metric: Metric | None) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) whose product comes closest to an error; R is `rank` or, if that is less, all there is."""
    weighed_OI = error_OI if metric is None else error_OI @ metric.root_II
    u_OR, s_R, v_IR = torch.svd_lowrank(weighed_OI, q=min(rank + 8, *weighed_OI.shape), niter=4)
    root_R = s_R[:rank].sqrt()
    rows_RI = (v_IR[:, : len(root_R)] * root_R).T
    return rows_RI if metric is None else rows_RI @ metric.inverse_II, u_OR[:, : len(root_R)] * root_R


def _write(layer: LoraLayer, name: str, a_RI: Tensor, b_OR: Tensor) -> None:
    """Write factors, of the adapter's rank or less, into an adapter; the rest stays as it is."""
    cast(nn.Linear, layer.lora_A[name]).weight[: len(a_RI)] = a_RI
    cast(nn.Linear, layer.lora_B[name]).weight[:, : len(a_RI)] = b_OR
