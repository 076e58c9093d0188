"""What is told of a model at one bitmap: when it is written, and when it is verified."""

from rich.console import Console

from switchq.evaluation.memory import MB
from switchq.inference.formats import NONE, Fixed
from switchq.words import count_of

LOADERS = {
    "hf": "AutoModelForCausalLM.from_pretrained",
    "compressed-tensors": "AutoModelForCausalLM.from_pretrained with the package compressed-tensors, or vLLM",
    "gptq": "GPTQModel, AutoModelForCausalLM.from_pretrained with gptqmodel and optimum (GPT-2: see README), or vLLM",
}


def show_fixed(console: Console, name: str, fixed: Fixed) -> None:
    """Print what was written, what loads it, and what it cost."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"{name} at {fixed.bitmap} → {fixed.folder} ({fixed.format}, {fixed.bytes / MB:.1f} MB)")
    if fixed.loss is None:
        kept = "" if fixed.adapters in ("merged", NONE) else ", without adapters"
        say(f"The weights are those that the model runs with{kept}")
    else:
        layers = fixed.loss.layers
        worst = max(layers, key=lambda layer: layers[layer])
        say(
            f"{count_of(len(layers), 'layer')} rounded again ("
            f"{'adapters merged' if fixed.adapters == 'merged' else 'their levels are no integers times a scale'}). "
            f"Relative squared error of the weights: mean {sum(layers.values()) / len(layers):.2e}, "
            f"most {layers[worst]:.2e} ({worst})"
        )
        if fixed.loss.perplexity is not None:
            before, after = fixed.loss.perplexity
            say(
                f"Perplexity of the text: {before:.3f} → {after:.3f}; "
                f"no logit moved by more than {fixed.loss.logits:.3g}"
            )
        ways = ["--adapters peft merges nothing"] if fixed.adapters == "merged" else []
        ways += ["--format hf rounds nothing again"] if fixed.format != "hf" else []
        if ways:
            say(", ".join(ways))
    for place in (fixed.folder / "adapters").glob("*"):
        say(f"Its adapter for peft, which it needs, lies in {place}")
    say(f"Load it with {LOADERS[fixed.format]}")
