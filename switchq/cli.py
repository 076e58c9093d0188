"""The command line. `fit`, `validate` and `test` belong to LightningCLI; the other verbs are functions in `verbs.py`.

Nothing heavy is imported before a verb is known to run, so that `--help` answers at once.
"""

import errno
import inspect
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

from switchq.errors import UserError
from switchq.verbs import COMMANDS, POSITIONAL

TRAINER_COMMANDS = {
    "fit": "train a switchable model (spnet, cyclic, instantnet)",
    "validate": "score a checkpoint on held-out training questions",
    "test": "score a checkpoint on the dev set",
}


HELP = """usage: switchq COMMAND [options]
       switchq COMMAND --help    lists a command's options

One language model checkpoint that runs at any per-layer bit-width.

Training (all options of Lightning's Trainer, with --config FILE and overrides):
{trainer}

Everything else:
{others}

Start here:
  switchq fit --config configs/quickstart.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    | code | after |
    |---|---|
    | 0 | all went well, or `fit` was stopped by one Ctrl-C and saved |
    | 1 | a fault of this program (with a traceback), or nobody reads its output any more |
    | 2 | a mistake of the user's: one line says what to do |
    | 3 | a full disk, no memory, a lost GPU or process: one line says what to do, and how to go on |
    | 130 | Ctrl-C |
    """
    args = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait asleep cost nothing on an idle machine and several times less on a busy one; set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _dispatch(args)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(5)  # where the Trainer's first process fails too, it says so and ends this one
        return _failed(error)
    except SystemExit as done:  # --help and --print_config of the parsers
        return int(done.code or 0)
    except KeyboardInterrupt:
        print("switchq: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _failed(UserError(f"no file can have so long a name: {str(error.filename)[:80]}..."))
        from switchq.mishaps import explain_mishap

        told = explain_mishap(error, args[0] if args else "")
        if told is None:
            raise
        return _failed(told)


def _failed(error: UserError) -> int:
    """Print the one line of an error and its notes; returns the exit code."""
    text = str(error).rpartition("UserError: ")[2] if "Original Traceback" in str(error) else str(error)
    line = ". ".join(" ".join(part.split()).rstrip(".") for part in (text, *getattr(error, "__notes__", ())))
    print(f"switchq: error: {line}{'.' * text.rstrip().endswith('.')}", file=sys.stderr)
    return error.exit_code


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if args[0] == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"switchq {version('switchq')}")
        except PackageNotFoundError:
            print("switchq, run from its source without being installed")
        return 0
    if args[0] in (*TRAINER_COMMANDS, *COMMANDS):
        from switchq.commands.mistakes import check_configs

        check_configs(args)
    if args[0] in TRAINER_COMMANDS:
        from switchq.commands.train import run

        run(args)
        return 0
    if args[0] not in COMMANDS:
        known = ", ".join([*TRAINER_COMMANDS, *COMMANDS])
        raise UserError(f"no command {args[0]!r}: there are {known}; switchq --help says what they do")
    from argparse import ArgumentError

    from jsonargparse import auto_cli, set_parsing_settings

    from switchq.commands.help_screen import VerbScreen

    set_parsing_settings(instantiate_subclass_spec_in_any=False)  # a file of settings must not run any class it names
    try:
        auto_cli(
            COMMANDS,
            args=_spelled(args),
            as_positional=False,
            prog="switchq",
            formatter_class=VerbScreen,
            exit_on_error=False,
        )
    except ArgumentError as error:
        from switchq.commands.mistakes import explain

        raise explain(error, args) from None
    return 0


def _help() -> str:
    width = max(shutil.get_terminal_size().columns, 40)

    def fill(line: str, indent: int) -> str:
        return textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False)

    def lines(described: dict[str, Any]) -> str:
        return "\n".join(fill(f"  {name:<12}{text}", 14) for name, text in described.items())

    others = {name: (function.__doc__ or "").partition("\n")[0] for name, function in COMMANDS.items()}
    fixed = "\n".join(fill(line, len(line) - len(line.lstrip())) for line in HELP.splitlines())
    return fixed.format(trainer=lines(TRAINER_COMMANDS), others=lines(others))


def _spelled(args: list[str]) -> list[str]:
    """Options as jsonargparse wants them.

    | typed | becomes |
    |---|---|
    | `report a.json` | `report --run a.json` |
    | `--overwrite` | `--overwrite=true` |
    | `--bitmap 8 --bitmap 4` | `--bitmap=[] --bitmap+ 8 --bitmap+ 4`, for options that are lists |
    | `--bits 4 --config a.yaml` | `--config a.yaml --bits=[] --bits+ 4`: what is typed replaces what a file says |
    """
    command, *rest = args
    options = inspect.signature(COMMANDS[command]).parameters.values()
    lists = {f"--{option.name}" for option in options if "list[" in str(option.annotation)}
    flags = {f"--{option.name}" for option in options if option.annotation is bool}
    rest = _config_first(rest)
    spelled, after_option = [command], False
    for argument, following in zip(rest, [*rest[1:], ""]):
        is_option = argument.startswith("-") and len(argument) > 1
        if not is_option and not after_option and command in POSITIONAL:
            spelled.append(f"{POSITIONAL[command]}+")
        after_option = is_option and "=" not in argument and argument not in ("-h", "--help")
        if argument in flags and following not in ("true", "false"):
            argument, after_option = f"{argument}=true", False
        name, equals, value = argument.partition("=")
        if name in lists and f"{name}=[]" not in spelled:
            spelled.append(f"{name}=[]")
        spelled.append(f"{name}+{equals}{value}" if name in lists else argument)
    return spelled


def _config_first(args: list[str]) -> list[str]:
    """The same with `--config FILE` in front."""
    first: list[str] = []
    others: list[str] = []
    takes_file = False
    for argument in args:
        is_config = argument == "--config" or argument.startswith("--config=")
        (first if is_config or takes_file else others).append(argument)
        takes_file = argument == "--config"
    return first + others


if __name__ == "__main__":
    sys.exit(main())
