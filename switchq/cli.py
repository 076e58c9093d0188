"""The command line. `fit`, `validate` and `test` belong to LightningCLI; the other verbs are functions in COMMANDS.

Nothing heavy is imported before a verb is known to run, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

from switchq.errors import UserError

TRAINER_COMMANDS = {
    "fit": "train a switchable model (spnet, cyclic, instantnet)",
    "validate": "score a checkpoint on held-out training questions",
    "test": "score a checkpoint on the dev set",
}


def eval_(
    ckpt: str | None = None,
    model: str | None = None,
    bitmap: list[str] | None = None,
    adapters: Literal["on", "off", "both"] = "on",
    data: str | None = None,
    text: list[str] | None = None,
    base: str | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    window: int | None = None,
    device: str = "auto",
    output: str | None = None,
    predictions: str | None = None,
) -> None:
    """Score a model at any bitmaps: EM, F1, perplexity, size and speed, as a table and as JSON.

    Args:
        ckpt: checkpoint of `switchq fit`.
        model: instead of a checkpoint: any supported model, by Hub name or folder, rounded without training.
        bitmap: what to run at, repeatable: `8`, `8/4` (stripe), `8,4,...` (one per layer), `attn=8,mlp=4` or
            `@file.json`; by default 16 and the ladder of the trained widths.
        adapters: with the LoRA adapters, without, or one row each.
        data: SQuAD-style JSON file or Hub name; by default the dev set that the checkpoint was trained beside.
        text: text files for perplexity, repeatable; given alone, questions are not asked.
        base: where the base model lies now, if it has moved since training.
        limit: score only so many questions, drawn at random.
        batch_size: questions a batch.
        max_new_tokens: most tokens of an answer; by default what the checkpoint was trained beside, or 32.
        window: tokens of a text window; the model's context window by default.
        device: auto, cpu, cuda, cuda:1, ...
        output: JSON file for the results: a list with one record per bitmap, in the order given.
        predictions: folder for the answers, one file per row in the official format.
    """
    settings = dict(locals())
    from switchq.commands.eval import evaluate_command

    evaluate_command(**settings)


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
) -> None:
    """Let a model write its own training data (LLM-QAT): it continues SQuAD prompts or random start tokens.

    Args:
        model: the full-precision model, by Hub name or folder.
        output: folder to write; a run that was interrupted goes on where it stopped.
        prompts: continue `squad` contexts and questions, or `random` start tokens.
        source: where squad prompts come from: JSON file or Hub name.
        count: sequences to write.
        max_new_tokens: most tokens to add to a prompt.
        greedy_tokens: take the likeliest token for so many steps, sample after.
        temperature: of the sampling.
        top_k: sample among the so many likeliest tokens; 0 means all.
        batch_size: sequences generated together.
        teacher_top_k: also keep the model's so many likeliest next tokens with their log-probabilities, to distil from.
        seed: of everything random.
        device: auto, cpu, cuda, cuda:1, ...
    """
    settings = dict(locals())
    from switchq.commands.gendata import gendata_command

    gendata_command(**settings)


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
            search, run folders such as lightning_logs/version_0.
        output: the page to write.
        figures: folder for every plot as SVG and PNG.
        title: heading of the page.
        overwrite: replace files that are there already.
    """
    settings = dict(locals())
    from switchq.commands.report import report_command

    report_command(**settings)


COMMANDS: dict[str, Any] = {"eval": eval_, "gendata": gendata, "report": report}

REPEATABLE = ("--bitmap", "--text", "--run")
"""Options that may be given several times; jsonargparse spells that with a plus."""

POSITIONAL = {"report": "--run"}
"""Commands whose arguments without an option's name belong to this option."""

FLAGS = ("--overwrite",)
"""Options that may be given without a value, for true."""

HELP = """usage: switchq COMMAND [options]     (switchq COMMAND --help lists a command's options)

One language model checkpoint that runs at any per-layer bit-width, chosen at run time.

Training (all options of Lightning's Trainer, with --config FILE and overrides):
{trainer}

Everything else:
{others}

Start here:
  switchq fit --config configs/quickstart.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 after a mistake of the user's, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait asleep cost nothing on an idle machine and several times less on a busy one; set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _dispatch(args)
    except UserError as error:
        print(f"switchq: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except SystemExit as done:  # --help and --print_config of the parsers
        return int(done.code or 0)
    except KeyboardInterrupt:
        print("switchq: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"switchq {version('switchq')}")
        return 0
    if args[0] in TRAINER_COMMANDS:
        from switchq.commands.train import run

        run(args)
        return 0
    if args[0] not in COMMANDS:
        known = ", ".join([*TRAINER_COMMANDS, *COMMANDS])
        raise UserError(f"no command {args[0]!r}: there are {known}; switchq --help says what they do")
    from argparse import ArgumentError

    from jsonargparse import auto_cli

    try:
        auto_cli(COMMANDS, args=_rewritten(args), as_positional=False, prog="switchq", exit_on_error=False)
    except ArgumentError as error:
        from switchq.commands.mistakes import explain

        raise explain(error, args) from None
    return 0


def _help() -> str:
    def lines(described: dict[str, Any]) -> str:
        return "\n".join(f"  {name:<10} {text}" for name, text in described.items())

    others = {name: (function.__doc__ or "").partition("\n")[0] for name, function in COMMANDS.items()}
    return HELP.format(trainer=lines(TRAINER_COMMANDS), others=lines(others)).rstrip()


def _rewritten(args: list[str]) -> list[str]:
    """The arguments as jsonargparse wants them."""
    return _repeatable(_named([f"{one}=true" if _bare(args, i) else one for i, one in enumerate(args)]))


def _bare(args: list[str], index: int) -> bool:
    return args[index] in FLAGS and args[index + 1 : index + 2] not in (["true"], ["false"])


def _named(args: list[str]) -> list[str]:
    """`report a.json --output b.html` with the option of the positional argument: `report --run a.json ...`."""
    if args[0] not in POSITIONAL:
        return args
    named, after_option = args[:1], False
    for argument in args[1:]:
        is_option = argument.startswith("-") and len(argument) > 1
        named += [argument] if is_option or after_option else [POSITIONAL[args[0]], argument]
        after_option = is_option and "=" not in argument and argument not in ("-h", "--help")
    return named


def _repeatable(args: list[str]) -> list[str]:
    """`--bitmap 8 --bitmap 4` as jsonargparse wants it: `--bitmap+ 8 --bitmap+ 4`."""
    return [
        f"{name}+{equals}{value}" if name in REPEATABLE else argument
        for argument in args
        for name, equals, value in [argument.partition("=")]
    ]


if __name__ == "__main__":
    sys.exit(main())
