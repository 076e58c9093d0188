"""The verb `transfer`, as `verbs_ptq.py` has those of post-training quantisation."""

from typing import Any, Literal

from switchq.verbs_ptq import plain


def transfer(
    source: str | None = None,
    via: list[str] | None = None,
    target: str | None = None,
    statistics: str | None = None,
    strategies: list[str] | None = None,
    controls: list[str] | None = None,
    forms: list[Literal["scale", "protect"]] | None = None,
    protect_ratio: float = 0.01,
    factor: float = 2.0,
    bits: list[int] | None = None,
    group_size: int | None = None,
    symmetric: bool = False,
    skip: list[str] | None = None,
    calibration: list[str] | None = None,
    samples: int = 32,
    length: int | None = None,
    documents: int | None = None,
    one_shot: bool = False,
    blocks_at_once: int = 1,
    seeds: list[int] | None = None,
    tasks: list[Any] | None = None,
    limit: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 8,
    device: str = "auto",
    output: str = "transfer",
    overwrite: bool = False,
) -> None:
    """Carry AWQ's statistics from a small model to a larger one, and measure what not calibrating it costs.

    Args:
        source: the model to calibrate, by Hub name or folder.
        via: models between source and target, repeatable: statistics go from one to the next.
        target: the model to carry to.
        statistics: in place of a source: a file of statistics that an earlier transfer extracted
            (OUTPUT/statistics.safetensors).
        strategies: direct, adaptive, matched, alpha, ratio, repeatable; by default all. Plain rounding (rtn) and the
            target's own calibration are always run.
        controls: permuted, random, repeatable; by default both.
        forms: of AWQ, repeatable: scale (every channel by a power of its importance) and protect (the most important
            channels by a factor); by default both.
        protect_ratio: share of the channels that protect protects.
        factor: what it multiplies them by.
        bits: widths, repeatable, 2 to 8; by default 8, 4, 3 and 2.
        group_size: inputs that share a scale; one scale per output row by default.
        symmetric: symmetric levels instead of a zero point per group.
        skip: layers to leave out, as globs over their names, repeatable; the source leaves out those it has too.
        calibration: text to calibrate on: a text, .jsonl or SQuAD file or a Hub name (its train split). The target's
            own calibration reads it too, and layer errors are measured on it.
        samples: windows of calibration text, drawn at random.
        length: tokens of such a window; 512 by default, or the models' context window if that is shorter.
        documents: read only so many documents of the calibration text, from its start.
        one_shot: take all statistics from the model in full precision, not block by block from the quantised one.
        blocks_at_once: blocks that are calibrated together.
        seeds: of the calibration draw and of the controls, repeatable; everything runs once with each. 0 by default.
        tasks: text sets to score, Perplexity tasks with class_path and init_args; see configs/transfer.yaml.
        limit: score only so many windows of each.
        dtype: of the models' weights and arithmetic.
        batch_size: calibration windows a batch.
        device: auto, cpu, cuda, cuda:1, ...
        output: folder for the results: transfer.json, statistics.safetensors, and the runs of source and target. A
            transfer that was stopped, or is to be widened, is gone on with.
        overwrite: replace another transfer's results.
    """
    settings = {name: plain(value) for name, value in locals().items()}
    from switchq.commands.transfer import transfer_command

    transfer_command(**settings)
