"""The table of a search: one row for every bitmap that was tried, in order, as CSV.

The CSV is rewritten in one step after each row, and the journal holds the same rows. A search that goes on repeats its
rows from the journal; the CSV has to agree with them, or somebody has changed it.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.evaluation import write_text
from switchq.posttraining.search.journal import SearchJournal

COLUMNS = (
    "bitmap", "F1", "EM", "perplexity", "KL", "drop", "average_bits", "weight_mb", "tokens_per_s", "accepted", "method",
    "questions",
)  # fmt: skip


class Trials:
    """The rows of a search.

    Args:
        path: the CSV; None writes none.
        journal: where the rows are kept as well.

    Attributes:
        rows: what this run has tried so far.

    Raises:
        UserError: the CSV at `path` is not what the journal says it should be.
    """

    def __init__(self, path: Path | None, journal: SearchJournal) -> None:
        self.path, self.journal = path, journal
        self.rows: list[dict[str, Any]] = []
        known = journal.entries["row"]
        if path is not None and path.exists():
            found = _read(path)
            if found not in (as_csv(known), as_csv(known[:-1])):  # a kill may fall between the two files
                raise UserError(
                    f"{path} is truncated or edited: it does not agree with {journal.path}; delete {path} to have it "
                    f"written again from there, or start anew with --overwrite"
                )
        if path is not None:
            write_text(path, as_csv(known))

    def add(self, row: Mapping[str, Any]) -> None:
        """The next row.

        Raises:
            UserError: an earlier run of the same search had another row here.
        """
        number, known = len(self.rows), self.journal.entries["row"]
        self.rows.append(dict(row))
        if number < len(known):
            if as_csv([known[number]]) != as_csv([row]):
                raise UserError(
                    f"row {number + 1} of the unfinished search in {self.journal.path} comes out differently this "
                    f"time: it was made by another version; start anew with --overwrite"
                )
            return
        self.journal.add("row", dict(row))
        if self.path is not None:
            write_text(self.path, as_csv(known))


def as_csv(rows: list[dict[str, Any]] | list[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; a figure that was not taken is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return ""
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
