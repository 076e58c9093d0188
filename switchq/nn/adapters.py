"""One LoRA adapter per bit-width, held by peft under the names `bits_8`, `bits_4`, ...

peft builds, saves and loads the adapters; this file adds the starts that depend on the width. An adapter's contribution
is y += (alpha / r) B A x with A (R, I) and B (O, R), computed in `switchq.nn.lora`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.nn.linear import QuantLinear
from switchq.nn.lora import SwitchedLora

Start = Literal["zero", "loftq"]

DEFAULT_RANKS = {8: 16, 7: 16, 6: 16, 5: 32, 4: 32, 3: 32, 2: 64, FULL: 16}
"""Ranks grow as bits fall: 16, 32 and 64 at 8, 4 and 2 bits."""


def adapter_name(bits: int) -> str:
    """The peft adapter name of a width."""
    return f"bits_{bits}"


def adapter_config(
    bits: int, targets: Sequence[str], ranks: Mapping[int, int], alphas: Mapping[int, int], dropout: float
) -> LoraConfig:
    """The peft configuration of the adapter for `bits`; alpha is twice the rank unless `alphas` says otherwise.

    Raises:
        UserError: if the rank is below 1.
    """
    rank = ranks.get(bits, DEFAULT_RANKS[bits])
    if rank < 1:
        raise UserError(f"the rank of the {bits}-bit adapter is {rank}: use 1 or more, or no adapters at all")
    return LoraConfig(
        r=rank,
        lora_alpha=alphas.get(bits, 2 * rank),
        lora_dropout=dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )


def add_adapters(model: nn.Module, configs: Mapping[int, LoraConfig], start: Start = "zero") -> None:
    """Inject one adapter per width into `model`, in place; adapters are float32 and trainable whatever the base is.

    Args:
        model: a model whose block linears are `QuantLinear`.
        configs: width -> peft configuration.
        start: `zero` leaves the model's outputs unchanged; `loftq` starts each adapter at the best rank-R approximation
            of what rounding to its width took away (LoftQ, Li et al. 2023, arXiv:2310.08659, with a single step, so
            that the codes do not depend on the adapter).
    """
    for bits, config in configs.items():
        config._register_custom_module({QuantLinear: SwitchedLora})
        with warnings.catch_warnings():
            # A second adapter of another name is what we are here for.
            warnings.filterwarnings("ignore", message=".*[Aa]lready found a `peft_config`.*")
            inject_adapter_in_model(config, model, adapter_name=adapter_name(bits))
    for name, parameter in model.named_parameters():
        if ".bits_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    if start == "loftq":
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                for bits in configs:
                    _start_at_residual(layer, bits)


@torch.no_grad()
def _start_at_residual(layer: LoraLayer, bits: int) -> None:
    """B A = the truncated SVD of (W - Q(W)) / scaling, the singular values split evenly between the factors.

    Ranks beyond those of the weight keep the zero start, which lets them learn.
    """
    base = layer.get_base_layer()
    if bits == FULL or not isinstance(base, QuantLinear):
        return
    name = adapter_name(bits)
    residual_OI = (base.weight.float() - base.round_weight(bits).float()) / layer.scaling[name]
    rank = layer.r[name]
    u_OR, s_R, v_IR = torch.svd_lowrank(residual_OI, q=min(rank + 8, *residual_OI.shape), niter=4)
    root_R = s_R[:rank].sqrt()
    lora_a, lora_b = cast(nn.Linear, layer.lora_A[name]), cast(nn.Linear, layer.lora_B[name])
    lora_a.weight[: len(root_R)] = (v_IR[:, :rank] * root_R).T
    lora_b.weight[:, : len(root_R)] = u_OR[:, :rank] * root_R
