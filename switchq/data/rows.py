"""Data sets as rows of named values: lines of JSON, a JSON list, or a Hub data set."""

from pathlib import Path
from typing import Any

from switchq.data.hub import load_hub
from switchq.data.local import looks_like_file, parse_json, read_text
from switchq.errors import UserError


def read_rows(source: str | Path, split: str = "test") -> list[dict[str, Any]]:
    """All rows of a data set.

    Args:
        source: a `.jsonl` file with an object in every line, a `.json` file with a list of objects (alone, or under
            `data`), or a Hub name (`owner/name` or `owner/name:config`).
        split: split of a Hub data set; a file holds one split, so it is ignored there.

    Raises:
        UserError: missing, unreadable, malformed or empty source; Hub out of reach.
    """
    if not looks_like_file(source):
        rows: list[Any] = list(load_hub(str(source), split, "use a local .jsonl file instead"))
    elif Path(source).suffix.lower() == ".json":
        content = parse_json(read_text(Path(source)), str(source))
        rows = content.get("data", content) if isinstance(content, dict) else content
    else:
        lines = enumerate(read_text(Path(source)).split("\n"), 1)
        rows = [parse_json(line, f"{source}: line {number}") for number, line in lines if line.strip()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{source} is no data set of rows: it needs a JSON object in every line, or a list of them")
    if not rows:
        raise UserError(f"{source} is an empty data set: it holds no rows")
    return rows
