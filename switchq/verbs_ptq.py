"""The verbs of post-training quantisation, as `verbs.py` has those of everything else."""

from typing import Any, Literal


def ptq(
    model: str | None = None,
    methods: list[str] | None = None,
    define: dict[str, Any] | None = None,
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
    checkpoint: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 8,
    device: str = "auto",
    devices: int = 1,
    processes: int = 1,
    offload: bool = True,
    output: str = "ptq",
    save: str | None = None,
    save_format: Literal["hf", "compressed-tensors", "gptq"] = "hf",
    overwrite: bool = False,
) -> None:
    """Quantise a model with every method at equal settings and score all of them: a leaderboard.

    Args:
        model: any supported model in full precision, by Hub name or folder.
        methods: names of methods, repeatable; by default all that there are.
        define: methods of your own by name, each with a rounder, transforms and a grid, as in
            switchq/posttraining/ptq/methods.yaml.
        bits: widths, repeatable, 2 to 8; by default 8, 4, 3 and 2.
        group_size: inputs that share a scale; one scale per output row by default.
        symmetric: symmetric levels instead of a zero point per group.
        skip: layers to leave out, as globs over their names, repeatable.
        calibration: text to calibrate on: a text, .jsonl or SQuAD file or a Hub name (its train split). Given more than
            once, each method runs once with each, and a cross table shows what that changes.
        samples: windows of calibration text, drawn at random.
        length: tokens of such a window; 512 by default, or the model's context window if that is shorter.
        documents: read only so many documents of the calibration text, from its start.
        one_shot: take all statistics from the model in full precision, not block by block from the quantised one.
        blocks_at_once: blocks that are calibrated together.
        seeds: of all draws, repeatable; methods that need data run once with each. 0 by default.
        tasks: what to score, as class_path and init_args; see configs/ptq/leaderboard.yaml.
        limit: score only so many windows or questions of each task.
        checkpoint: checkpoint of `switchq fit` over the same model, scored at the same widths as the row `switchq`.
        dtype: of the model's weights and arithmetic.
        batch_size: calibration windows a batch.
        device: auto, cpu, cuda, cuda:1, ...
        devices: share the runs out among so many GPUs, or processes on the CPU; the results are the same.
        processes: on each device. A small model keeps a GPU waiting for its Python: several at once fill the gaps, and
            make each other's seconds longer.
        offload: only the blocks that are being calibrated are on the device, the rest and the calibration inputs wait
            in CPU memory; false keeps all on the device, which is faster.
        output: folder for the results: sweep.json, and a file for each run. A sweep that was stopped, or is to be
            widened, is gone on with.
        save: folder for the quantised model, as `AutoModelForCausalLM.from_pretrained` reads it; several models go into
            folders in it.
        save_format: hf has rounded weights as floats; compressed-tensors (symmetric levels, 8, 4 or 2 bits, not GPT-2)
            and gptq have packed codes, for methods that round to whole numbers and leave nothing else to store.
        overwrite: replace another sweep's results and saved models.
    """
    settings = {name: plain(value) for name, value in locals().items()}
    from switchq.commands.devices import on_devices
    from switchq.commands.ptq import ptq_command

    on_devices(ptq_command, settings)


def verify(
    folder: list[str] | None = None,
    prompt: str | None = None,
    max_new_tokens: int = 32,
    scores: bool = True,
    device: str = "auto",
) -> None:
    """Check a saved quantised model: its hashes, its scores, and how it writes. switchq verify DIR

    Args:
        folder: what `switchq ptq --save` wrote, in any format, also without the option's name; of what `switchq export
            --format hf` and the like wrote, the hashes alone are checked, and the other options do nothing.
        prompt: text to continue.
        max_new_tokens: most tokens to write.
        scores: whether to score it again and compare with what was saved.
        device: auto, cpu, cuda, cuda:1, ...
    """
    settings = dict(locals())
    from switchq.commands.verify import verify_command

    verify_command(**settings)


def compare(
    run: list[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    output: str | None = None,
    overwrite: bool = False,
) -> None:
    """Compare two runs of `ptq`, or the fronts of two searches, with paired bootstrap intervals. switchq compare A B

    Args:
        run: two runs (ptq/runs/NAME.json), saved models or searches (search.json), also without the option's name; the
            second is compared with the first.
        confidence: of the intervals.
        seed: of the resampling.
        output: JSON file for the differences.
        overwrite: replace it if it is there already.
    """
    settings = dict(locals())
    from switchq.commands.compare import compare_command

    compare_command(**settings)


def plain(value: Any) -> Any:
    """Lists and dictionaries all the way down: jsonargparse may keep what names a class in a Namespace of its own."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
