"""The files of a search, and who may write them.

search.csv             every bitmap that was tried
search.journal.jsonl   every evaluation, for going on after a kill
search.json            the result; its presence says that the search is finished
search.bitmap.json     the chosen bitmap, as `--bitmap @search.bitmap.json` takes it
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.parallel import is_first
from switchq.posttraining.journal import Busy
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.trials import Trials


@dataclass(frozen=True)
class SearchFiles:
    """Where the files of a search lie.

    Raises:
        UserError: `csv` does not end in .csv, so that the other names would not differ from it.
    """

    csv: Path

    def __post_init__(self) -> None:
        if self.csv.suffix != ".csv":
            raise UserError(f"--output is the table of the search: give a name that ends in .csv, not {self.csv}")

    @property
    def json(self) -> Path:
        """The result."""
        return self.csv.with_suffix(".json")

    @property
    def bitmap(self) -> Path:
        """The chosen bitmap."""
        return self.csv.with_suffix(".bitmap.json")

    @property
    def journal(self) -> Path:
        """The evaluations."""
        return self.csv.with_suffix(".journal.jsonl")

    def check_inputs(self, inputs: Mapping[str, str | None]) -> None:
        """Refuse to write over what the search reads.

        Args:
            inputs: option -> the file that it was given.

        Raises:
            UserError: one of them is also written.
        """
        written = {path.resolve() for path in (self.csv, self.json, self.bitmap, self.journal)}
        for option, given in inputs.items():
            if given is not None and Path(given).resolve() in written:
                raise UserError(
                    f"--output {self.csv} would be written over {given}, which {option} reads: name another"
                )

    def check(self, overwrite: bool) -> None:
        """Refuse early what `claim` would refuse whatever the settings.

        Raises:
            UserError: a finished search, or files that no search can be gone on with.
        """
        if overwrite or not is_first():  # the first process may be writing already
            return
        if self.json.exists():
            raise UserError(
                f"{self.json} is there already, as after a finished search: give another --output, or --overwrite"
            )
        for path in (self.csv, self.bitmap):
            if path.exists() and not self.journal.exists():
                raise UserError(
                    f"{path} exists, but no {self.journal.name} to go on from: choose another --output, or give "
                    f"--overwrite"
                )

    def claim(self, header: Mapping[str, Any], overwrite: bool) -> tuple[SearchJournal, Trials]:
        """Go on with the unfinished search of the same key, or begin one.

        Args:
            header: of the journal.
            overwrite: whether anything else in the way is removed.

        Raises:
            UserError: something is in the way, or another process is at it.
        """
        self.check(overwrite)
        if self.json.exists() or not self.journal.exists():
            self.remove()
        try:
            return self._open(header)
        except Busy:
            raise
        except UserError:
            if not overwrite:
                raise
            self.remove()
            return self._open(header)

    def remove(self) -> None:
        """Delete all four, the result first: without it, the others are an unfinished search."""
        for path in (self.json, self.bitmap, self.csv, self.journal):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _open(self, header: Mapping[str, Any]) -> tuple[SearchJournal, Trials]:
        journal = SearchJournal(self.journal, header)
        try:
            return journal, Trials(self.csv, journal)
        except UserError:
            journal.close()
            raise
