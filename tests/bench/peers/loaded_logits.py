"""Logits of a folder of `switchq export`, as another program loads it: an .npy file beside the answer.

python loaded_logits.py --model DIR --format gptq --ids ids.npy --logits logits.npy --output answer.json
"""

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2PreTrainedModel

PACKAGES = ("torch", "transformers", "compressed-tensors", "gptqmodel", "optimum")


def load(folder, form):
    """A float32 model on the CPU.

    transformers initialises the weight of every GPT-2's `c_proj`, which no packed layer has: it is told not to.
    GPTQModel decodes with float16 scales, whatever the model's type: they are made float32 after loading. Its own
    loader (`gptqmodel`) takes 16-bit models only, so the weights that it decodes are put into linears, and all other
    parameters are read again.
    """
    if form != "gptqmodel":
        if form == "gptq":
            GPT2PreTrainedModel._init_weights = lambda self, module: None
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for module in model.modules() if form == "gptq" else ():
            if hasattr(module, "scales"):
                module.scales = module.scales.float()
        return model
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16).model.float()
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseQuantLinear):
            module.scales = module.scales.float()
            weight_IO = module.dequantize_weight().float()
            linear = torch.nn.Linear(*weight_IO.shape, bias=module.bias is not None)
            linear.weight.data = weight_IO.T.contiguous()
            model.set_submodule(name, linear)
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        if name in stored:
            parameter.data = stored[name].float()
    return model


def main():
    """Write the logits (B, T, V) of ids (B, T)."""
    options = argparse.ArgumentParser()
    for name in ("model", "ids", "logits", "output"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--format", required=True, help="gptq is read by AutoModelForCausalLM, gptqmodel by GPTQModel")
    options.add_argument("--tokens", type=int, default=24, help="to generate after the first sequence")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    model = load(arguments.model, arguments.format).eval()
    ids_BT = torch.from_numpy(np.load(arguments.ids))
    with torch.no_grad():
        np.save(arguments.logits, model(ids_BT).logits.float().numpy())
        written = model.generate(ids_BT[:1], max_new_tokens=arguments.tokens, do_sample=False)[0].tolist()
    kinds = sorted({type(module).__name__ for module in model.modules()})
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    found = {name: installed.get(name) for name in PACKAGES}
    arguments.output.write_text(json.dumps({"versions": found, "written": written, "modules": kinds}))


if __name__ == "__main__":
    main()
