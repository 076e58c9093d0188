import json
import math
import os
from pathlib import Path

import pytest

from switchq.errors import UserError
from switchq.files import check_writable, short_names, write_json


def test_round_trip_and_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.json"
    check_writable(path)
    assert not path.exists()
    write_json(path, [{"a": 1.5, "name": "naïve"}])
    assert json.loads(path.read_text(encoding="utf-8")) == [{"a": 1.5, "name": "naïve"}]
    assert os.listdir(path.parent) == ["out.json"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"a": math.inf, "b": [math.nan, {"c": -math.inf}], "d": (1.0,)})
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": None, "b": [None, {"c": None}], "d": [1.0]}


def test_an_old_file_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    write_json(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_json(path, "new")
    assert json.loads(path.read_text()) == "old"
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize("place", ["file/out.json", "file/deeper/out.json", "folder"])
def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for attempt in (lambda: check_writable(tmp_path / place), lambda: write_json(tmp_path / place, 1)):
        with pytest.raises(UserError) as error:
            attempt()
        assert str(tmp_path / place) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["a/wiki.txt"], ["wiki"]),
        (["a/wiki.txt", "b/wiki.txt", "b/c4.txt"], ["a-wiki", "b-wiki", "c4"]),
        (["x/a/wiki.txt", "y/a/wiki.txt", "wiki.txt"], ["x-a-wiki", "y-a-wiki", "wiki"]),
        (["/wiki.txt", "wiki.txt"], ["-wiki", "wiki"]),
    ],
)
def test_names_that_tell_files_apart(paths: list[str], names: list[str]) -> None:
    assert short_names(paths, "--text") == names


@pytest.mark.parametrize("paths", [["a/wiki.txt", "a/wiki.txt"], ["wiki.txt", "c4.txt", "wiki.md"]])
def test_a_file_that_is_given_twice(paths: list[str]) -> None:
    with pytest.raises(UserError, match=r"--text .*wiki.* given twice"):
        short_names(paths, "--text")


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name(path: str) -> None:
    with pytest.raises(UserError, match=f"--text '{path}' is not the name of a file"):
        short_names(["wiki.txt", path], "--text")
