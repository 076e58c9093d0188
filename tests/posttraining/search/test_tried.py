"""Searches read back from their files, question by question, and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from switchq.commands.compare import compare_command
from switchq.errors import UserError
from switchq.posttraining.search import Study
from switchq.posttraining.search.greedy import fast, plain
from switchq.posttraining.search.report import result_record
from switchq.posttraining.search.tried import Tried, read_search

from .conftest import Threshold, make_space, make_study

SETTINGS = {"metric": "F1", "cost": "average_bits", "budget": 0.1, "questions": 40, "seed": 0}


def searched(path: Path, method: Any, **settings: Any) -> tuple[Path, Study]:
    """The JSON file of a small finished search, with its journal beside it."""
    space = make_space(8)
    measure = Threshold(space, 40, seed=3)
    study = make_study(space, measure, 40, 0.1, path=path.with_suffix(".csv"))
    study.references()
    end = method(study, measure.damage_LW)
    study.objective.journal.close()
    record = result_record(study, {}, study.points[end], [], {"base_hash": "a"}, {**SETTINGS, **settings})
    path.write_text(json.dumps(record))
    return path, study


def test_what_is_read_is_what_was_found(tmp_path: Path) -> None:
    path, study = searched(tmp_path / "fast.json", fast)
    read, own = read_search(path, json.loads(path.read_text())).tried, Tried.of_study(study)
    for name in ("costs_P", "values_PQ", "weights_Q"):
        np.testing.assert_array_equal(getattr(read, name), getattr(own, name))
    assert (read.metric, read.corner) == (own.metric, own.corner)
    figures = [100 * float(row.mean()) for row in read.values_PQ]
    assert figures == pytest.approx([one.figures["F1"] for one in study.points.values()])


def test_the_command_tells_how_much_better_the_second_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(searched(tmp_path / f"{method.__name__}.json", method)[0]) for method in (plain, fast)]
    compare_command(paths, 0.95, 0, str(tmp_path / "difference.json"), False)
    content = json.loads((tmp_path / "difference.json").read_text())
    assert (content["kind"], content["first"], content["better_by"]["questions"]) == ("search-comparison", paths[0], 40)
    assert content["better_by"]["volume"]["value"] <= 0  # a part of the same path
    assert "40 questions were resampled" in capsys.readouterr().out


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(str(searched(tmp_path / name / "search.json", fast)[0]))
    compare_command(paths, 0.95, 0, None, False)
    assert "Front of b/search.json against a/search.json, F1" in capsys.readouterr().out


def test_the_table_of_a_search_is_refused_with_the_file_to_give(tmp_path: Path) -> None:
    path, _ = searched(tmp_path / "one.json", fast)
    table = path.with_suffix(".csv")
    with pytest.raises(UserError, match=r"one\.csv is a table: give the JSON file beside it, .*one\.json$"):
        compare_command([str(table), str(table)], 0.95, 0, None, False)


def test_searches_that_asked_something_else_are_refused(tmp_path: Path) -> None:
    one, _ = searched(tmp_path / "one.json", fast)
    other, _ = searched(tmp_path / "other.json", fast, seed=1, budget=0.2)
    with pytest.raises(UserError, match="differ in seed, budget"):
        compare_command([str(one), str(other)], 0.95, 0, None, False)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path, _ = searched(tmp_path / "one.json", fast)
    content = json.loads(path.read_text())
    journal = tmp_path / "one.journal.jsonl"
    whole = journal.read_text()
    journal.write_text("\n".join(whole.splitlines()[:4]))
    with pytest.raises(UserError, match="damaged, or not of one search"):
        read_search(path, content)
    journal.unlink()
    with pytest.raises(UserError, match=r"one\.journal\.jsonl, which holds the values by question"):
        read_search(path, content)
    journal.write_text(whole)
    for name in ("settings", "points"):
        with pytest.raises(UserError, match="damaged"):
            read_search(path, {**content, name: None})
