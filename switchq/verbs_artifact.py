"""The verbs of artifacts, see `switchq.verbs`: packing a model, running it, measuring it."""

from typing import Literal


def export(
    output: str,
    ckpt: str | None = None,
    model: str | None = None,
    format: Literal["artifact", "hf", "compressed-tensors", "gptq"] = "artifact",
    bits: list[int] | None = None,
    embeddings: Literal[8, 16, 32] | None = None,
    bitmap: str | None = None,
    adapters: Literal["merged", "peft", "off"] = "merged",
    text: str | None = None,
    grid: Literal["symmetric", "asymmetric", "nested"] | None = None,
    group_size: int | None = None,
    scale: Literal["absmax", "mse"] | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> None:
    """Pack a model into an artifact, one folder for all widths; or write it at one bitmap for other programs.

    Args:
        output: folder to write.
        ckpt: checkpoint of `switchq fit`; one of another grid than Nested, or double, is rounded again, and
            told what that costs.
        model: instead of a checkpoint: any supported model, by Hub name or folder, rounded without training.
        format: `artifact`; or one bitmap for other programs: `hf`, floats that transformers loads, or packed as
            `compressed-tensors` or `gptq` has it.
        bits: of an artifact: widths to hold, repeatable; by default the trained ones, of a plain model 8, 4 and 2.
        embeddings: bits of embeddings and head, of an artifact 8, 16 (the default) or 32; of the others 32 (the
            default) or 16, of all that is not packed.
        bitmap: of one bitmap: what to freeze the model at.
        adapters: of one bitmap: `merged` into the weights, beside them for `peft`, or `off`.
        text: of one bitmap: a text to measure on what rounding merged adapters costs.
        grid: of a plain model: nested (all that an artifact takes), symmetric (the default, and all that
            compressed-tensors takes) or asymmetric (the default of hf and gptq).
        group_size: of a plain model: inputs that share a scale; one scale per output row by default.
        scale: of a plain model: absmax (the default) or mse.
        base: where the base model lies now, if it has moved since training.
        overwrite: replace the folder if it is there already.
    """
    settings = dict(locals())
    from switchq.commands.export import export_command

    export_command(**settings)


def generate(
    artifact: str,
    prompt: str,
    bitmap: str | None = None,
    schedule: str | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 50,
    seed: int = 0,
    prefer: Literal["speed", "memory"] = "speed",
    device: str = "auto",
) -> None:
    """Continue a prompt with an artifact, printed as it comes; the bitmap may change on the way.

    Args:
        artifact: folder that `switchq export` wrote.
        prompt: text to continue.
        bitmap: what to run at; the artifact's widest width by default.
        schedule: instead of a bitmap: `0:8,32:4` runs at 8 bits, and at 4 from generated token 32 on.
        max_new_tokens: most tokens to generate.
        temperature: of the sampling; 0 takes the likeliest token.
        top_k: sample among so many of the likeliest tokens.
        seed: of the sampling.
        prefer: on a CPU, map the files (`speed`), or read them for a lower peak of memory (`memory`).
        device: auto, cpu, cuda, cuda:1, ...
    """
    settings = dict(locals())
    from switchq.commands.generate import generate_command

    generate_command(**settings)


def bench(
    artifact: str,
    bitmap: list[str] | None = None,
    prompt_tokens: int = 64,
    new_tokens: int = 32,
    repeats: int = 3,
    batch: int = 1,
    prefer: Literal["speed", "memory"] = "speed",
    device: str = "auto",
    threads: int | None = None,
    output: str | None = None,
) -> None:
    """Measure an artifact on this machine: tokens a second, time to the first token, memory, beside the plain model.

    Args:
        artifact: folder that `switchq export` wrote.
        bitmap: what to run at, repeatable; by default each width of the artifact.
        prompt_tokens: length of the prompt.
        new_tokens: tokens to generate after the first.
        repeats: times to repeat each; the fastest counts.
        batch: sequences at once.
        prefer: on a CPU, map the files (`speed`), or read them for a lower peak of memory (`memory`).
        device: auto, cpu, cuda, cuda:1, ...
        threads: of PyTorch; all cores by default.
        output: JSON file for the figures.
    """
    settings = dict(locals())
    from switchq.commands.bench import bench_command

    bench_command(**settings)
