"""A search killed at any moment, and repeated, ends with the same table, timings included."""

import os
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.posttraining.search import Evolution, Measurement, Study, run_methods
from switchq.posttraining.search.journal import SearchJournal

from .conftest import Threshold, make_space, make_study

LAYERS, QUESTIONS = 8, 60


class Timed(Threshold):
    """Takes longer with every call, so that timings give away what was not taken from the journal."""

    def __call__(self, bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        found = super().__call__(bitmap, rows)
        return Measurement(found.values, found.weights, found.tokens, 1.0 + len(self.calls))


def search(path: Path) -> tuple[Study, Threshold, dict[str, Any]]:
    space = make_space(LAYERS)
    measure = Timed(space, QUESTIONS, seed=3)
    study = make_study(space, measure, QUESTIONS, 0.2, path=path)
    try:
        records = run_methods(
            study, ("greedy", "ilp", "evolution"), measure.damage_LW, measure.damage_LW, Evolution(4, 6)
        )
    finally:
        study.objective.journal.close()
    return study, measure, records


def killed(path: Path, writes: int, torn: bool) -> None:
    """Run the search in a child that is killed (SIGKILL) at a write to the journal, or in the middle of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forks of processes with threads
        child = os.fork()
    if child == 0:
        left = [writes]
        write = SearchJournal._write

        def deadly(self: SearchJournal, line: dict[str, Any]) -> None:
            left[0] -= 1
            if left[0] == 0:
                if torn and self._file is not None:
                    self._file.write(b'{"eval": {"bits": [8, ')
                    self._file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, line)

        try:
            SearchJournal._write = deadly  # type: ignore[method-assign]
            search(path)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


@pytest.mark.parametrize("torn", [False, True], ids=["between lines", "in a line"])
@pytest.mark.parametrize("writes", [2, 9, 40, 101])
def test_killed_and_repeated(writes: int, torn: bool, tmp_path: Path) -> None:
    unbroken, whole, records = search(tmp_path / "unbroken.csv")
    path = tmp_path / "s.csv"
    killed(path, writes, torn)
    known = SearchJournal(path.with_suffix(".journal.jsonl"), {"key": ""})
    known.close()
    study, measure, again = search(path)
    assert without_seconds(study.trials.rows) == without_seconds(unbroken.trials.rows)
    assert len(measure.calls) == len(whole.calls) - len(known.entries["eval"])
    assert not set(measure.calls) & {(Bitmap(entry["bits"]), tuple(entry["rows"])) for entry in known.entries["eval"]}
    for method, record in records.items():
        assert {**record, "seconds": 0} == {**again[method], "seconds": 0}
    rows = path.read_text().splitlines()
    assert len(rows) == len(unbroken.trials.rows) + 1
    kept = len(known.entries["row"])
    assert rows[: kept + 1] == (tmp_path / "unbroken.csv").read_text().splitlines()[: kept + 1]


def test_a_repeated_finished_search_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    _, _, records = search(path)
    table = path.read_bytes()
    _, measure, again = search(path)
    assert measure.calls == []
    assert (path.read_bytes(), again) == (table, records)


@pytest.mark.parametrize("damage", ["half a row", "rows missing", "edited", "more", "binary"])
def test_a_table_that_does_not_agree(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    killed(path, 60, torn=False)
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    changed = {
        "half a row": text[: -len(lines[-1]) // 2],
        "rows missing": b"".join(lines[:-2]),
        "edited": text.replace(b"true", b"false", 1),
        "more": text + lines[-1],
        "binary": b"\xff\xfe",
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"truncated or edited: it does not agree with .*overwrite"):
        search(path)
    assert path.read_bytes() == changed
    path.unlink()  # as the message says
    search(path)
    assert path.read_bytes().startswith(b"".join(lines[:-1]))


def test_a_journal_of_another_version_is_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    killed(path, 60, torn=False)
    journal = path.with_suffix(".journal.jsonl")
    for file in (journal, path):
        file.write_text(file.read_text().replace("greedy", "greedo"))
    with pytest.raises(UserError, match=r"row 7 .* comes out differently"):
        search(path)
