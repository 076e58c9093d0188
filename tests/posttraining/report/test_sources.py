"""Files are told apart by their contents, and what cannot be reported is refused in one clear line."""

import json
import os
from pathlib import Path

import pytest

from switchq.errors import UserError
from switchq.posttraining.report import read_sources

from .conftest import RECORDS, TRIED, Files, record


def test_each_kind_is_recognised(files: Files) -> None:
    sources = read_sources(files.all)
    assert [one.name for one in sources.results] == ["results.json", "version_0"]
    assert [one.result.F1 for one in sources.results[0].scored] == [one["F1"] for one in RECORDS]
    assert sources.results[0].scored[1].intervals == {"F1": (77.0, 82.0)}
    assert [old.F1 for old in sources.results[1].before.values()] == [40.0, 39.8, 39.5]
    assert [len(one.layers) for _, one in sources.sensitivities] == [6]
    assert [len(one.tried) for one in sources.searches] == [len(TRIED)]
    assert sources.searches[0].dev[0].intervals == {"F1": (76.0, 83.0)}
    assert sources.searches[0].dev[0].result.run["data"] == "data/dev.json"
    assert sources.runs[0].curves["ce/8/4"][:2] == ((0, 1.5), (1, pytest.approx(1.4875)))
    assert "bits: [8, 4, 2]" in sources.runs[0].config


def test_a_file_named_twice_counts_once(files: Files) -> None:
    json_too = files.search.with_suffix(".json")
    sources = read_sources([files.search, json_too, files.results, files.results])
    assert (len(sources.searches), len(sources.results)) == (1, 1)


def test_names_do_not_matter(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "whatever.txt"
    path.write_bytes(files.sensitivity.read_bytes())
    assert len(read_sources([path]).sensitivities) == 1


def test_numbers_that_are_not_finite_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([record("4", [4] * 6, float("nan"), 3.0, text_perplexity={"wiki": None})]))
    (scored,) = read_sources([path]).results[0].scored
    assert scored.result.F1 is None
    assert scored.result.text_perplexity == {"wiki": None}


def test_fields_of_later_versions_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([record("4", [4] * 6, 50.0, 3.0, colour="green")]))
    assert read_sources([path]).results[0].scored[0].result.F1 == 50.0


BROKEN = {
    "truncated": (json.dumps(RECORDS)[:200], "damaged or not JSON"),
    "not JSON": ("Dear diary", "damaged or not JSON"),
    "nothing": ("", "damaged or not JSON"),
    "deep": ("[" * 100_000, "damaged or not JSON"),
    "empty list": ("[]", "holds no results"),
    "another list": ("[8, 8]", "record 1", "not a result"),
    "another record": ('[{"name": 1}]', "record 1", "'bitmap' is missing"),
    "second record": (json.dumps([RECORDS[0], {**RECORDS[0], "weight_mb": "big"}]), "record 2", "'weight_mb'"),
    "bits": (json.dumps([{**RECORDS[0], "bits": ["a"]}]), "list of bit-widths"),
    "no bits": (json.dumps([{**RECORDS[0], "bits": []}]), "list of bit-widths"),
    "run": (json.dumps([{**RECORDS[0], "run": [1]}]), "'run' is not an object"),
    "unknown kind": ('{"kind": "recipe"}', "'recipe'", "switchq eval", "sensitivity or search"),
    "no kind": ("{}", "says no kind", "run folder"),
    "a number": ("3", "says no kind"),
    "endless": (json.dumps([RECORDS[0]]).replace("200.0", "1e999"), "record 1", "'weight_mb'"),
    "endless in digits": (json.dumps([{**RECORDS[0], "weight_mb": 10**400}]), "record 1", "'weight_mb'"),
    "weightless": (json.dumps([{**RECORDS[0], "weight_mb": 0}]), "record 1", "'weight_mb' is not more than 0"),
    "sensitivity": ('{"kind": "sensitivity", "layers": 3}', "damaged"),
    "sensitivity bits": ('{"kind": "sensitivity", "layers": [], "bits": [1e999]}', "damaged"),
    "search": ('{"kind": "search"}', "holds no bitmaps"),
    "search run": ('{"kind": "search", "points": [{"bitmap": "8"}], "run": 3}', "'run' is not an object"),
    "search dev": ('{"kind": "search", "dev": [{"bitmap": "8"}]}', "record 1", "'bits' is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_reported_is_refused(name: str, tmp_path: Path) -> None:
    text, *says = BROKEN[name]
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_sources([path])
    for part in ("file.json", *says):
        assert part in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read .*file\.json"):
        read_sources([tmp_path / "file.json"])


def test_missing_paths_and_folders(files: Files, tmp_path: Path) -> None:
    lone = tmp_path / "logs" / "version_0"
    lone.mkdir(parents=True)
    with pytest.raises(UserError, match="nothing to report on: name one or more of"):
        read_sources([])
    with pytest.raises(UserError, match="no file or folder"):
        read_sources([tmp_path / "none.json"])
    with pytest.raises(UserError, match="is not a run folder"):
        read_sources([lone])
    (tmp_path / "alone.csv").write_text("bitmap,F1\n8,90\n")
    with pytest.raises(UserError, match=r"alone\.json beside alone\.csv: the search is not finished"):
        read_sources([tmp_path / "alone.csv"])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.json").write_text('{"kind": "search", "points": [{"bitmap": "8"}]}')
    with pytest.raises(UserError, match="no rows with a column 'bitmap'"):
        read_sources([tmp_path / "other.csv"])


def test_a_folder_above_runs_names_the_newest_with_scores(tmp_path: Path) -> None:
    written = {"version_0/results.json": 1000, "version_2/before.json": 3000, "version_1/results.json": 2000}
    for name, time in written.items():
        scores = tmp_path / "logs" / name
        scores.parent.mkdir(parents=True)
        scores.write_text(json.dumps(RECORDS))
        os.utime(scores, (time, time))
    (tmp_path / "logs" / "sensitivity" / "version_0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"did you mean .*version_2\?$"):
        read_sources([tmp_path / "logs"])
    with pytest.raises(UserError, match=r"no TensorBoard events in it$"):
        read_sources([tmp_path / "logs" / "sensitivity"])


def test_a_run_that_was_stopped_has_curves_only(files: Files, tmp_path: Path) -> None:
    for event_file in files.run.glob("events.*"):
        (tmp_path / event_file.name).write_bytes(event_file.read_bytes()[:-7])
    sources = read_sources([tmp_path])
    assert sources.results == []
    assert 30 < len(sources.runs[0].curves["loss"]) <= 40
