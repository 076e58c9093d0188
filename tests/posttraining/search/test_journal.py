"""The journal: what a kill leaves behind is read again, and nothing else is accepted."""

import json
from pathlib import Path

import pytest

from switchq.errors import UserError
from switchq.posttraining.journal import Busy, key_of
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.output import SearchFiles

HEADER = {"key": "mine", "run": {"time": "then"}}


def write(path: Path) -> list[dict[str, int]]:
    journal = SearchJournal(path, HEADER)
    entries = [{"number": number} for number in range(3)]
    for entry in entries:
        journal.add("eval", entry)
    journal.close()
    return entries


def test_a_line_cut_anywhere_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    entries = write(path)
    text = path.read_bytes()
    last = text.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(text)):
        path.write_bytes(text[:cut])
        journal = SearchJournal(path, HEADER)
        assert journal.entries["eval"] == entries[:2]
        journal.add("eval", entries[2])
        journal.close()
        assert path.read_bytes() == text


def test_the_first_header_stays(tmp_path: Path) -> None:
    write(tmp_path / "journal")
    again = SearchJournal(tmp_path / "journal", {"key": "mine", "run": {"time": "now"}})
    assert again.resumed
    assert again.header["run"] == {"time": "then"}
    again.close()


def test_a_header_cut_short_is_no_search_yet(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"header": {"ver')
    journal = SearchJournal(tmp_path / "journal", HEADER)
    assert not journal.resumed
    journal.close()
    assert json.loads((tmp_path / "journal").read_text())["header"]["key"] == "mine"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"mine"', '"theirs"', "another model or with other settings"),
        ('"version": 2', '"version": 1', "other settings"),
        ('{"number": 1}', '{"number": ', "damaged at line 3"),
        ('"eval": {"number": 0}', '"evil": {"number": 0}', "damaged at line 2"),
        ('{"header"', '[{"header"', "damaged at line 1"),
    ],
)
def test_what_is_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    before = path.read_bytes()
    for _ in range(2):  # the lock is let go of
        with pytest.raises(UserError, match=says) as caught:
            SearchJournal(path, HEADER)
        assert not isinstance(caught.value, Busy)
    assert path.read_bytes() == before


def test_one_search_at_a_time(tmp_path: Path) -> None:
    files = SearchFiles(tmp_path / "s.csv")
    journal, _ = files.claim(HEADER, overwrite=False)
    for overwrite in (False, True):
        with pytest.raises(Busy, match="another search is writing"):
            files.claim(HEADER, overwrite)
    journal.close()
    again, _ = files.claim(HEADER, overwrite=False)
    again.close()


def test_keys_do_not_depend_on_order() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
