"""Local data files: which names mean one, their text, and the JSON in it."""

import json
import os.path
import re
from pathlib import Path
from typing import Any

from switchq.errors import UserError

READ = (".json", ".jsonl", ".txt", ".raw", ".text", ".md", ".csv", ".tsv")
"""Endings of files that are read, as JSON or as text."""

NOT_READ = (".parquet", ".arrow", ".feather", ".gz", ".zst", ".xz", ".bz2", ".zip")
"""Endings of files that people have data in and that are not read."""

DRIVE = re.compile(r"[A-Za-z]:[\\/]")
"""How an absolute path begins on Windows."""

HUB_NAME = re.compile(r"(?!\.)[\w.-]{1,96}(/[\w.-]{1,96})?(:.+)?")


def looks_like_file(source: str | Path) -> bool:
    """Whether `source` means a local path rather than a Hub name (`name`, `owner/name`, either with `:config` or
    `:path/of/one-file.ext` behind it).
    """
    name = str(source)
    if os.path.exists(name) or ".." in Path(name).parts or DRIVE.match(name) or not HUB_NAME.fullmatch(name):
        return True
    return ":" not in name and Path(name).suffix.lower() in READ + NOT_READ


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: missing, unreadable, not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        kind, wrong = path.suffix.lower(), f"not UTF-8 text (byte {error.start}): give"
        if kind in NOT_READ:
            wrong = f"{kind} files are not read: convert it to"
        raise UserError(f"{path}: {wrong} plain text, .jsonl or .json.") from None


def parse_json(text: str, where: str) -> Any:
    """The value that `text`, a file or one of its lines, is in JSON; `where` names it in messages.

    Raises:
        UserError: it is none, or holds half a surrogate pair, which no tokenizer takes.
    """
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise UserError(f"{where} is not JSON: {error.msg} ({line}column {error.colno}).") from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise UserError(f"{where} holds {half}, half of a surrogate pair, which is no text: take it out.") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise UserError(f"{where} is not JSON: {error}.") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply.") from None
    return content
