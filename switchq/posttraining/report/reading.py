"""Files as plain values: JSON and CSV, with nothing in them that a page or a chart cannot hold."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchq.errors import UserError, reason

LARGEST = 1e100
"""A number beyond this counts as not finite: no measurement comes near it, and a chart's arithmetic would overflow."""


def read_json(path: Path) -> Any:
    """The contents of a JSON file; numbers that are not finite, or as good as not, are None.

    Raises:
        UserError: missing, not readable, or not whole.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return clean(json.loads(text, parse_constant=number, parse_float=number, parse_int=_whole))
    except FileNotFoundError:
        raise UserError(f"no file or folder {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or not JSON: {error}") from None


def clean(content: Any) -> Any:
    """The content with what neither a page nor a chart can hold taken out of every text.

    Halves of surrogate pairs become question marks; control characters, and the separators of lines and paragraphs that
    end a string in some scripts, become spaces.
    """
    if isinstance(content, str):
        return _CONTROL.sub(" ", content.encode("utf-8", "replace").decode("utf-8"))
    if isinstance(content, list | tuple):
        return type(content)(clean(one) for one in content)
    if isinstance(content, Mapping):
        return {clean(key): clean(value) for key, value in content.items()}
    return content


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def number(value: Any) -> float | None:
    """A number up to `LARGEST`, or None; texts as a CSV file holds them are read."""
    if isinstance(value, bool):
        return None
    try:
        read = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return read if abs(read) <= LARGEST else None


def _whole(text: str) -> int | None:
    return None if number(text) is None else int(text)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a search's CSV file, as texts.

    Raises:
        UserError: missing, not readable, or another table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [clean(dict(row)) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"no file or folder {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if not rows or "bitmap" not in rows[0]:
        raise UserError(f"{path} is not the table of a search: it has no rows with a column 'bitmap'")
    return rows
