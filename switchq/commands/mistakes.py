"""jsonargparse explains a mistake in a tree of several lines; a user wants the leaf: the option, and what is wrong."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from switchq.errors import UserError

LONGEST = 300
"""Characters of an explanation that is passed on as it is."""

LONGEST_VALUE = 80
"""Characters of a wrong value that are shown; a mapping that is longer may be from another command's configuration."""

LARGEST_CONFIG = 1_000_000
"""Bytes of a configuration file; the shipped ones have about a thousand."""

DEEPEST_CONFIG = 50
"""Levels of a configuration file; the parser behind overflows its stack at some tens of thousands."""


def check_configs(args: Sequence[str]) -> None:
    """Look at the files given with `--config` before a parser does.

    Raises:
        UserError: one is too large, not UTF-8, not YAML, nested too deeply, or no set of options.
    """
    for file in config_files(args):
        if Path(file).is_file():
            _check_config(Path(file))


def config_files(args: Sequence[str]) -> list[str]:
    """The files given with `--config`."""
    files = [after for before, after in zip(args, args[1:]) if before in ("-c", "--config")]
    return files + [argument.partition("=")[2] for argument in args if argument.startswith("--config=")]


def _check_config(path: Path) -> None:
    import yaml

    if path.stat().st_size > LARGEST_CONFIG:
        raise UserError(f"{path} is too large for a configuration ({path.stat().st_size:,} bytes)")
    depth, kinds = 0, list[str]()
    try:
        for event in yaml.parse(path.read_bytes().decode("utf-8"), Loader=yaml.SafeLoader):
            kinds.append(type(event).__name__)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_CONFIG:
                raise UserError(f"{path} is not a configuration: it is nested too deeply")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a configuration: it is not UTF-8 text (byte {error.start})") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())[:LONGEST]}") from None
    if kinds[2:3] != ["MappingStartEvent"]:
        raise UserError(f"{path} is not a configuration: it has no `option: value` lines")


def explain(error: Exception, args: Sequence[str], choices: Mapping[str, Sequence[str]] = {}) -> UserError:
    """The one line that says what jsonargparse said.

    Args:
        error: its `ArgumentError`.
        args: what was being parsed, the verb first.
        choices: option -> short names of the classes that it takes, to be named when it was given another.
    """
    command, text = args[0], str(error)
    keys = [key for key in re.findall(r'Parser key "([^"]+)"', text) if key != "init_args"]
    option = "--" + ".".join(keys).removeprefix(f"{command}.") if keys else ""
    see = f"switchq {command} --help lists the options"
    if found := re.search(r"unrecognized arguments: (.*)", text):
        return UserError(f"unknown option {found[1].split()[0]}; {see}")
    if found := re.search(r"arguments are required: (.*)", text):
        missing = ", ".join(f"--{name.removeprefix(f'{command}.')}" for name in found[1].split(", "))
        return UserError(f"missing {missing}; {see}")
    if "Problems parsing config" in text:
        files = " ".join(after for before, after in zip(args, args[1:]) if before in ("-c", "--config"))
        return UserError(f"{files} is not valid YAML: {' '.join(text.partition(': ')[2].split())[:LONGEST]}")
    if found := re.search(r"class_path '([^']+)':\s*Option '([^']+)' is not accepted", text):
        return UserError(f"{option}: {found[1].rpartition('.')[2]} has no option {found[2]!r}")
    if found := re.search(r"does not accept option '([^']+)'", text):
        return UserError(f"unknown key {found[1]!r} in the configuration; {see}")
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        known = choices.get(option.removeprefix("--"), ())
        return UserError(f"{option}: there is no {found[1]!r}" + (f"; there are {', '.join(known)}" if known else ""))
    value = next((after for before, after in zip(args, args[1:]) if before == option), "")
    if re.fullmatch(r"\{.*\d:\S.*\}", value):
        blank = re.sub(r":(?=\S)", ": ", value)
        return UserError(f"{option}: YAML wants a blank after each colon: {blank}")
    wanted = [kind for kind in re.findall(r"Expected an? (.+?)(?:\. Got value|\n|$)", text) if "NoneType" not in kind]
    given = re.search(r"(?:Got|Given) value: (.*)", text)
    if wanted and given and option:
        several = [kind for kind in re.findall(r"\n    - Expected an? (.+)", text) if "NoneType" not in kind]
        kinds = dict.fromkeys(_readable(kind) for kind in several or wanted[:1])
        value = given[1].strip()
        shown = repr(value)
        if len(value) > LONGEST_VALUE:
            shown = f"{value[:LONGEST_VALUE]!r} and so on"
            if value.startswith("{") and config_files(args):
                shown += ": is it from the --config of another command?"
        return UserError(f"{option} must be {', or '.join(kinds)}, not {shown}")
    reason = " ".join(re.sub(r'Parser key "[^"]+":', "", text).split())
    return UserError(f"{option}: {reason[:LONGEST]}" if option else reason[:LONGEST])


def _readable(kind: str) -> str:
    """`<class 'float'>` -> `a float`, `typing.Literal['on', 'off']` -> `'on' or 'off'`."""
    if literal := re.search(r"Literal\[(.*)\]", kind):
        *most, last = literal[1].split(", ")
        return f"{', '.join(most)} or {last}" if most else last
    name = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", kind)
    name = {"Sequence": "list", "int": "whole number", "float": "number", "str": "text"}.get(name, name)
    return f"a {name}"
