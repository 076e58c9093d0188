"""Where adapters start: at what rounding takes away from a layer's weight, or from its outputs given real inputs.

An adapter of a width starts at what rounding to it takes away (`start_at_residual`). The shared one may start first, at
what the narrowest width rounds worst, which is taken out of the weight before any width rounds it (`start_shared`).
Starts that need data get the layer's inputs as a `Metric`; `switchq.training.calibrated_start` gathers those, and
`switchq.training.block_start` goes on from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from switchq.bitmap import FULL
from switchq.nn.adapters import SHARED, TAKEN, width_of
from switchq.nn.linear import QuantLinear
from switchq.quant import Grid

Start = Literal["zero", "loftq", "qera", "apiq"]
"""Of the adapters of widths; the last two need data."""

SharedStart = Literal["zero", "qera"]
"""Of the shared adapter; the last one needs data, and takes what it starts with out of the weights."""

ROUNDS = 4
"""Times that a weight is rounded and the shared adapter found, in turns, for its start."""


@torch.no_grad()
def start_loftq(model: nn.Module) -> None:
    """Start every width's adapter at the best rank-R approximation of what rounding to the width took away.

    That is LoftQ (Li et al. 2023, arXiv:2310.08659) with a single step, so that the codes do not depend on the adapter.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name in layer.lora_A:
                if width_of(f".{name}.") is not None:
                    start_at_residual(layer, name)


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
