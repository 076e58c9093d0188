"""llmcompressor's GPTQ and AWQ, on asymmetric groups of all block linears.

GPTQ with the package's defaults: a damping of 0.01, columns by falling activation with static groups. AWQ with its
default search; the scales go into norms and linears, so all tensors that are not as they were are written.
"""

import argparse
from collections.abc import Iterator

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from dense import Tensors, serve
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from torch import Tensor, nn


def quantise(model: nn.Module, ids_NT: Tensor, arguments: argparse.Namespace) -> Tensors:
    """One shot, block by block."""
    weights = QuantizationArgs(
        num_bits=arguments.bits, group_size=arguments.group, strategy="group", symmetric=False, type="int"
    )
    scheme = {"group": QuantizationScheme(targets=["Linear"], weights=weights)}
    recipe: list[Modifier] = [GPTQModifier(config_groups=scheme, ignore=["lm_head"])]
    if arguments.method == "awq":
        recipe = [AWQModifier(), QuantizationModifier(config_groups=scheme, ignore=["lm_head"])]
        if arguments.device == "cpu":
            IntermediatesCache.pin_memory = lambda *_: None  # it asks for an accelerator, which a CPU is not
    oneshot(
        model=model.to(arguments.device),
        dataset=Dataset.from_dict({"input_ids": ids_NT.tolist(), "attention_mask": torch.ones_like(ids_NT).tolist()}),
        recipe=recipe,
        max_seq_length=ids_NT.shape[1],
        num_calibration_samples=len(ids_NT),
        shuffle_calibration_samples=False,
    )
    return lambda: dict(_dense(model))


def _dense(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Norms as they are, linears rounded by their own scales; GPTQ's weights are rounded already and stay."""
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if own not in ("weight", "bias") or name.endswith("lm_head"):
                continue
            if own == "weight" and getattr(module, "quantization_scheme", None) is not None:
                parameter = fake_quantize(
                    x=parameter,
                    scale=module.weight_scale,
                    zero_point=module.weight_zero_point,
                    args=module.quantization_scheme.weights,
                )
            yield f"{name}.{own}", parameter


if __name__ == "__main__":
    serve("llmcompressor", quantise)
