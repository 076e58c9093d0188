"""The options of a command as `--help` shows them."""

import re
from argparse import Action
from typing import Any

from jsonargparse import DefaultHelpFormatter

KIND = re.compile(
    r" \((?P<required>required(?:, |(?=\))))?(?:type: (?P<kind>.*?))?(?:(?:, )?default: (?P<default>.*?))?\)$",
    re.DOTALL,
)
"""What jsonargparse writes behind the words of an option."""

KNOWN = ", known subclasses: "
"""What follows the default of an option that takes a class."""

PLAIN = {"str": None, "int": "N", "float": "X", "bool": None}
"""Types that go without saying -> what stands for a value; None for the option's name."""


class HelpScreen(DefaultHelpFormatter):
    """jsonargparse's formatter, but types that go without saying are left out, and defaults that are none."""

    def __init__(self, prog: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(prog.replace(" [options] ", " "), *args, **kwargs)

    def _expand_help(self, action: Action) -> str:
        text = super()._expand_help(action)
        found = KIND.search(text)
        if found is None:
            return text
        kind, (default, _, known) = one_kind(found["kind"] or ""), (found["default"] or "null").partition(KNOWN)
        notes = ["required"] if found["required"] else []
        if kind not in PLAIN and not choices(kind):
            notes.append(kind)
        if default not in ("null", "False"):
            notes.append(f"default: {default}")
        if known:
            notes.append(KNOWN.lstrip(", ") + known)
        return text[: found.start()] + (f" ({'; '.join(notes)})" if notes else "")

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        kind = one_kind(self._get_type_str(action) or "")
        return PLAIN.get(kind) or choices(kind) or super()._get_default_metavar_for_optional(action)

    def _format_action_invocation(self, action: Action) -> str:
        names = action.option_strings
        action.option_strings = [name for name in names if not name.endswith("+")]  # a list's other spelling
        try:
            return super()._format_action_invocation(action).rstrip()
        finally:
            action.option_strings = names


class VerbScreen(HelpScreen):
    """The same for verbs, whose switches take no value."""

    def _format_args(self, action: Action, default_metavar: str) -> str:
        if one_kind(self._get_type_str(action) or "") == "bool" and not action.default:
            return ""
        return super()._format_args(action, default_metavar)


def one_kind(kind: str) -> str:
    """A type as jsonargparse writes it, without that it may be left out, and of a list that of an item."""
    kind = kind.removesuffix(" | null")
    for outer in ("Optional", "list", "List"):
        if kind.startswith(f"{outer}[") and kind.endswith("]"):
            kind = kind[len(outer) + 1 : -1]
    return kind


def choices(kind: str) -> str | None:
    """The values of a Literal type as argparse writes them; None for another type."""
    if not re.fullmatch(r"Literal\[[^\[\]]*\]", kind):
        return None
    values = (value.strip().strip("'\"") for value in kind[len("Literal[") : -1].split(","))
    return f"{{{','.join(values)}}}"
