"""Words and names for the page."""

import re
from collections.abc import Sequence
from pathlib import Path

from switchq.files import ends_apart

LONGEST = 40
"""Characters of a label on a chart."""


def short(text: str, longest: int = LONGEST) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def slug(text: str, number: int | None = None) -> str:
    """A name for a file or an anchor: lower-case ASCII letters, digits and hyphens, and a number where one is given.

    >>> slug("F1-against-size-dev.json, 200 questions", 1)
    'f1-against-size-dev-json-200-questions-1'
    """
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "part"
    return words if number is None else f"{words}-{number}"


def bits_text(average: float) -> str:
    """A mean width: at most two decimals.

    >>> bits_text(4.0), bits_text(19 / 3)
    ('4', '6.33')
    """
    return f"{average:.2f}".rstrip("0").rstrip(".")


def told_apart(paths: Sequence[Path]) -> list[str]:
    """The names of some files, each after as many of its folders as it takes to tell them apart.

    >>> told_apart([Path("runs/a/search.json"), Path("runs/b/search.json")])
    ['a/search.json', 'b/search.json']
    """
    count = max(map(len, ends_apart([path.parts for path in paths])), default=1)
    return [str(Path(*path.parts[-count:])) for path in paths]


def told_in_titles(paths: Sequence[Path]) -> list[str]:
    """What goes after the titles of each file's figures: its name in brackets, or nothing where it is the only one."""
    return [f" ({name})" if len(paths) > 1 else "" for name in told_apart(paths)]
