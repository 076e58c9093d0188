"""The sentence at the top, against the arithmetic done by hand."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from switchq.posttraining.report import Sources, build, read_sources, render
from switchq.posttraining.report.summary import summary

from .conftest import RECORDS, record


@pytest.fixture
def sources(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Sources]:
    def write(records: list[dict[str, Any]]) -> Sources:
        (tmp_path / "results.json").write_text(json.dumps(records))
        return read_sources([tmp_path / "results.json"])

    return write


def test_the_smallest_bitmap_that_is_good_enough(sources: Callable[..., Sources]) -> None:
    """8/4 keeps 79.0 / 80.0 = 98.75 % at 82 / 200 = 41 %; 4 bits keeps only 90 %."""
    said = summary(sources(RECORDS)).sentences
    assert said == (
        "The bitmap 8/4 (6 bits on average) keeps 98.8 % of the 16-bit F1 at 41 % of its size "
        "(dev.json, 50 questions).",
    )


def test_the_best_one_where_none_is_good_enough(sources: Callable[..., Sources]) -> None:
    said = summary(sources([RECORDS[0], RECORDS[4], RECORDS[5]])).sentences
    assert said == ("4 bits keeps 90.0 % of the 16-bit F1 at 30 % of its size (dev.json, 50 questions).",)


@pytest.mark.parametrize(
    "records",
    [RECORDS[1:], [record("16", [16] * 6, 0.0, 9.0), RECORDS[1]], RECORDS[:1]],
    ids=["no 16", "zero", "only 16"],
)
def test_no_sentence_without_a_reference(records: list[dict[str, Any]], sources: Callable[..., Sources]) -> None:
    assert summary(sources(records)).sentences == ()


def test_rows_without_adapters_compare_with_16_bits_without_adapters(sources: Callable[..., Sources]) -> None:
    bare = [{**one, "adapters": False, "F1": one["F1"] / 2} for one in RECORDS[:2]]
    said = summary(sources([RECORDS[0], *bare])).sentences
    assert said == ("8 bits keeps 99.5 % of the 16-bit F1 at 50 % of its size (dev.json, 50 questions).",)


def test_different_questions_are_not_compared(sources: Callable[..., Sources]) -> None:
    other = {**RECORDS[4], "n_questions": 20}
    said = summary(sources([RECORDS[0], other]))
    assert said.sentences == ()


def test_tiles_and_facts(sources: Callable[..., Sources]) -> None:
    top = summary(sources(RECORDS))
    assert [(tile.bits, tile.score, tile.kept, tile.size) for tile in top.tiles] == [
        (16, "80.0", "reference", "200.00 MB"),
        (8, "79.6", "99.5 % of 16 bits", "101.00 MB, 50 %"),
        (4, "72.0", "90.0 % of 16 bits", "60.00 MB, 30 %"),
        (2, "10.5", "13.1 % of 16 bits", "43.00 MB, 22 %"),
    ]
    assert {fact.name: fact.value for fact in top.facts} == {
        "Base model": "models/tiny",
        "Checkpoint": "runs/last.ckpt",
        "Data": "data/dev.json",
        "Device": "cpu (x86_64, 1 thread)",
    }


@pytest.mark.parametrize(
    ("records", "kept"),
    [(RECORDS[5:], [""]), ([record("16", [16] * 6, 0.0, 9.0), *RECORDS[4:]], ["reference", "", ""])],
    ids=["2 bits alone", "16 bits without a score"],
)
def test_only_16_bits_are_the_reference(
    records: list[dict[str, Any]], kept: list[str], sources: Callable[..., Sources]
) -> None:
    report = build(sources(records))
    assert [tile.kept for tile in report.summary.tiles] == kept
    assert re.findall(r'<span class="kept">(.*?)</span>', render(report)) == kept


def test_the_tiles_are_those_of_the_file_that_the_sentence_names(tmp_path: Path) -> None:
    worse = [{**one, "F1": one["F1"] * (1.0 if one["bitmap"] == "16" else 0.5)} for one in RECORDS]
    for name, records in (("a.json", worse), ("b.json", RECORDS)):
        (tmp_path / name).write_text(json.dumps(records))
    top = summary(read_sources([tmp_path / "a.json", tmp_path / "b.json"]))
    assert "in b.json keeps 98.8 %" in top.sentences[0]
    assert [tile.score for tile in top.tiles] == ["80.0", "79.6", "72.0", "10.5"]
    assert top.tiles_on == "b.json, dev.json, 50 questions"
