"""The verbs beside training: typed functions, whose arguments are a command's options and whose docstring is its help.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from typing import Any, Literal

from switchq.verbs_artifact import bench, export, generate
from switchq.verbs_ptq import compare, ptq, verify
from switchq.verbs_transfer import transfer


def eval_(
    ckpt: str | None = None,
    model: str | None = None,
    artifact: str | None = None,
    grid: Literal["symmetric", "asymmetric", "nested"] | None = None,
    group_size: int | None = None,
    scale: Literal["absmax", "mse"] | None = None,
    bitmap: list[str] | None = None,
    adapters: Literal["on", "off", "both"] = "on",
    data: str | None = None,
    text: list[str] | None = None,
    base: str | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    window: int | None = None,
    prefer: Literal["speed", "memory"] | None = None,
    device: str = "auto",
    devices: int = 1,
    output: str | None = None,
    predictions: str | None = None,
) -> None:
    """Score a model at any bitmaps: EM, F1, perplexity, size and speed, as a table and as JSON.

    Args:
        ckpt: checkpoint of `switchq fit`.
        model: instead of a checkpoint: any supported model, by Hub name or folder, rounded without training.
        artifact: instead of a checkpoint: a folder that `switchq export` wrote; it runs packed.
        grid: of a plain model: symmetric (the default), asymmetric or nested.
        group_size: of a plain model: inputs that share a scale; one scale per output row by default.
        scale: of a plain model: absmax (the default) or mse.
        bitmap: what to run at, repeatable: `8`, `8/4` (stripe), `8,4,...` (one per layer), `attn=8,mlp=4` or
            `@file.json`; by default 16 and the ladder of the trained widths, of an artifact the ladder alone.
        adapters: with the LoRA adapters, without (but for what a shared start took out of the weights), or a row each.
        data: SQuAD-style JSON file or Hub name; by default the dev set that the checkpoint was trained beside.
        text: text files for perplexity, repeatable; given alone, questions are not asked.
        base: where the base model lies now, if it has moved since training.
        limit: score only so many questions, drawn at random, and the first so many windows of each text.
        batch_size: questions a batch.
        max_new_tokens: most tokens of an answer; by default what the checkpoint was trained beside, or 32.
        window: tokens of a text window; the model's context window by default.
        prefer: of an artifact on a CPU: map its files (speed, the default), or read them for a lower peak (memory).
        device: auto, cpu, cuda, cuda:1, ...
        devices: split the work over so many GPUs, or processes on the CPU; the results are the same.
        output: JSON file for the results: a list with one record per bitmap, in the order given.
        predictions: folder for the answers, one file per row in the official format.
    """
    settings = dict(locals())
    from switchq.commands.devices import on_devices
    from switchq.commands.eval import evaluate_command

    on_devices(evaluate_command, settings)


def gendata(
    model: str,
    output: str,
    prompts: Literal["squad", "random"] = "squad",
    source: str = "rajpurkar/squad",
    count: int = 1000,
    max_new_tokens: int = 64,
    greedy_tokens: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    batch_size: int = 32,
    teacher_top_k: int = 0,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
) -> None:
    """Let a model write its own training data (LLM-QAT): it continues SQuAD prompts or random start tokens.

    Args:
        model: the full-precision model, by Hub name or folder.
        output: folder to write; a run that was interrupted goes on where it stopped.
        prompts: continue `squad` contexts and questions, or `random` start tokens.
        source: where squad prompts come from: SQuAD-style JSON file or Hub name.
        count: sequences to write.
        max_new_tokens: most tokens to add to a prompt.
        greedy_tokens: take the likeliest token for so many steps, sample after.
        temperature: of the sampling.
        top_k: sample among so many of the likeliest tokens; 0 means all.
        batch_size: sequences generated together.
        teacher_top_k: also keep so many of the model's likeliest next tokens, with log-probabilities, to distil from.
        seed: of everything random.
        device: auto, cpu, cuda, cuda:1, ...
        devices: split the work over so many GPUs, or processes on the CPU; the results are the same.
    """
    settings = dict(locals())
    from switchq.commands.devices import on_devices
    from switchq.commands.gendata import gendata_command

    on_devices(gendata_command, settings)


def sensitivity(
    ckpt: str | None = None,
    model: str | None = None,
    grid: Literal["symmetric", "asymmetric", "nested"] | None = None,
    group_size: int | None = None,
    scale: Literal["absmax", "mse"] | None = None,
    output: str = "sensitivity.json",
    scores: list[Literal["mse", "mae", "kl", "fisher"]] | None = None,
    bits: list[int] | None = None,
    data: str | None = None,
    text: str | None = None,
    base: str | None = None,
    limit: int = 64,
    batch_size: int = 8,
    window: int | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    logdir: str = "lightning_logs/sensitivity",
    overwrite: bool = False,
) -> None:
    """Measure how much each layer suffers at each bit-width: a table, JSON and a heat map in TensorBoard.

    Args:
        ckpt: checkpoint of `switchq fit`.
        model: instead of a checkpoint: any supported model, by Hub name or folder, rounded without training.
        grid: of a plain model: symmetric (the default), asymmetric or nested.
        group_size: of a plain model: inputs that share a scale; one scale per output row by default.
        scale: of a plain model: absmax (the default) or mse.
        output: JSON file for the sensitivities.
        scores: what to measure, repeatable; by default all of mse, mae (of a layer's output), kl (of the final logits)
            and fisher (squared weight error, weighted by squared gradients).
        bits: widths to measure, repeatable; by default the trained ones, of a plain model 8, 4 and 2.
        data: calibrate on these training questions, SQuAD-style JSON file or Hub name; by default those that the
            checkpoint's training held out.
        text: calibrate on a text file instead.
        base: where the base model lies now, if it has moved since training.
        limit: questions or windows to calibrate on, drawn at random.
        batch_size: questions or windows a batch.
        window: tokens of a text window; 512 by default, or the model's context window if that is shorter.
        seed: of the draw.
        device: auto, cpu, cuda, cuda:1, ...
        devices: split the work over so many GPUs, or processes on the CPU; the results are the same.
        logdir: folder for TensorBoard; each run writes to a new folder in it.
        overwrite: replace the output if it is there already.
    """
    settings = dict(locals())
    from switchq.commands.devices import on_devices
    from switchq.commands.sensitivity import sensitivity_command

    on_devices(sensitivity_command, settings)


def search(
    ckpt: str | None = None,
    model: str | None = None,
    grid: Literal["symmetric", "asymmetric", "nested"] | None = None,
    group_size: int | None = None,
    scale: Literal["absmax", "mse"] | None = None,
    sensitivity: str | None = None,
    method: list[Literal["greedy", "greedy-plain", "ilp", "evolution"]] | None = None,
    budget: float = 0.3,
    metric: Literal["F1", "EM", "perplexity", "KL"] = "F1",
    score: str | None = None,
    cost: Literal["average_bits", "weight_mb"] = "average_bits",
    average_bits: float | None = None,
    weight_mb: float | None = None,
    data: str | None = None,
    questions: int = 200,
    dev: str | None = None,
    dev_limit: int | None = None,
    dev_points: int = 8,
    widths: list[int] | None = None,
    group: Literal["layer", "block"] = "layer",
    greedy_share: float = 0.2,
    generations: int = 20,
    population: int = 16,
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    base: str | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    output: str = "search.csv",
    overwrite: bool = False,
) -> None:
    """Search for mixed precision: a width for each layer, as small as a budget on the metric allows.

    Args:
        ckpt: checkpoint of `switchq fit`.
        model: instead of a checkpoint: any supported model, by Hub name or folder, rounded without training.
        grid: of a plain model: symmetric (the default), asymmetric or nested.
        group_size: of a plain model: inputs that share a scale; one scale per output row by default.
        scale: of a plain model: absmax (the default) or mse.
        sensitivity: file of `switchq sensitivity` for this model; greedy and ilp need it.
        method: repeatable: greedy, ilp, evolution (all three by default), or greedy-plain, which evaluates every step.
        budget: the relative drop of the metric that is allowed against full precision: 0.3 is 30 %.
        metric: F1, EM, perplexity of the answers, or KL divergence from full precision at the answers.
        score: which of the file's sensitivities to use; by default kl, fisher, mse or mae, the first that is there.
        cost: what the front is drawn over and the chosen bitmap is smallest in.
        average_bits: most average bits of the chosen bitmap.
        weight_mb: most weight MB of the chosen bitmap.
        data: training questions to search on, SQuAD-style JSON file or Hub name; by default those that the
            checkpoint's training held out.
        questions: use so many of them, drawn at random.
        dev: scored once, at the end; by default the dev set that the checkpoint was trained beside; `none` for none.
        dev_limit: score only so many dev questions, drawn at random.
        dev_points: score so many bitmaps of the front on dev, beside the chosen, uniform and striped ones.
        widths: candidate widths; by default the trained ones, or 8, 4, 2.
        group: what gets a width of its own, each layer or each block.
        greedy_share: greedy search spends at most this part of the question evaluations that greedy-plain would.
        generations: of evolution.
        population: offspring a generation.
        batch_size: questions a batch.
        max_new_tokens: most tokens of an answer; by default what the checkpoint was trained beside, or 32.
        base: where the base model lies now, if it has moved since training.
        seed: of everything random.
        device: auto, cpu, cuda, cuda:1, ...
        devices: split the work over so many GPUs, or processes on the CPU; the results are the same.
        output: table of all bitmaps tried; the result, the chosen bitmap and the journal lie beside it. An
            unfinished search is gone on with.
        overwrite: replace another search's files.
    """
    settings = dict(locals())
    from switchq.commands.devices import on_devices
    from switchq.commands.search import search_command

    on_devices(search_command, settings)


def report(
    run: list[str] | None = None,
    output: str = "report.html",
    figures: str | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> None:
    """Make one HTML page of result files: figures, tables, and how each was made. switchq report RUN...

    Args:
        run: what to report on, also without the option's name: results of eval, files of sensitivities or of a
            search, folders of ptq or of transfer, run folders such as lightning_logs/version_0.
        output: the page to write.
        figures: folder for every plot as SVG and PNG.
        title: heading of the page.
        overwrite: replace files that are there already.
    """
    settings = dict(locals())
    from switchq.commands.report import report_command

    report_command(**settings)


COMMANDS: dict[str, Any] = {
    "eval": eval_,
    "gendata": gendata,
    "sensitivity": sensitivity,
    "search": search,
    "ptq": ptq,
    "verify": verify,
    "compare": compare,
    "transfer": transfer,
    "report": report,
    "export": export,
    "generate": generate,
    "bench": bench,
}

POSITIONAL = {"report": "--run", "verify": "--folder", "compare": "--run"}
"""Commands whose arguments without an option's name belong to this option."""
