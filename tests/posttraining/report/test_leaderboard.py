"""The leaderboard on the page: figures, the table, the cross table, and what a damaged file says."""

import json
from pathlib import Path
from typing import Any

import pytest

from switchq.errors import UserError
from switchq.posttraining.ptq.results import RunRecord
from switchq.posttraining.report import build, read_sources, render
from switchq.posttraining.report.sections.leaderboard import leaderboard
from switchq.posttraining.report.sweeps import joined

METRICS = [{"name": "perplexity", "better": "lower", "form": "perplexity"}]
TASKS = {name: {"metrics": METRICS, "protocol": "windows of 8 tokens"} for name in ("wiki", "<b>c4</b>")}


def run(name: str, bits: int, value: float | None, **more: Any) -> dict[str, Any]:
    scores = {task: {"perplexity": value} for task in TASKS}
    values: dict[str, Any] = {"scores": scores, "effective_bits": bits + 0.5, "size_mb": bits, "size_before_mb": 16.0}
    return RunRecord(name, bits, run={"base": "models/tiny", "command": "switchq ptq"}, **{**values, **more}).record()


RUNS = [
    run("full precision", 16, 20.0),
    run("rtn", 4, 30.0),
    run("gptq", 4, 25.0, calibration="c4.jsonl"),
    run("gptq", 4, 24.0, calibration="wiki.txt"),
    run("rtn", 2, None),
    run("awq", 2, None, scores={}, effective_bits=None, error="out of luck"),
]


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"kind": "ptq", "base": "models/tiny", "setting": {"group_size": 64}, "tasks": TASKS, "runs": RUNS}
    (folder / "sweep.json").write_text(json.dumps({**content, **changes}))
    return folder


def test_one_figure_a_task_and_two_tables(tmp_path: Path) -> None:
    section = leaderboard(read_sources([write(tmp_path / "ptq")]))
    assert section is not None
    wiki, c4, table, cross = section.blocks
    assert wiki.title == "wiki: perplexity against effective bits"
    assert c4.title.startswith("<b>c4</b>")
    assert table.title == "Leaderboard of models/tiny"
    assert cross.title.startswith("Calibrated on one set")


def test_sweeps_of_one_model_and_setting_are_one_board(tmp_path: Path) -> None:
    """Whatever bits, seeds and texts they have; another setting or key, or none, makes a board of its own."""
    full, awq = run("full precision", 16, 20.0, key="f"), run("awq", 4, 26.0, seed=1, calibration="c4.jsonl", key="a")
    failed, later = run("hqq", 3, None, key="h", error="out of luck"), run("hqq", 3, 33.0, key="h")
    one = {"key": "k", "setting": {"group_size": 64, "bits": [4, 2], "seeds": [0]}, "runs": [full, failed, *RUNS[1:]]}
    two = {"key": "k", "setting": {"group_size": 64, "bits": [3], "seeds": [1]}, "runs": [full, later, awq]}
    folders = [write(tmp_path / "one", **one), write(tmp_path / "two", **two)]
    (joint,) = joined(read_sources(folders).sweeps)
    assert [path.parent.name for path in joint.paths] == ["one", "two"]
    assert joint.setting == {"group_size": 64, "bits": [4, 2, 3], "seeds": [0, 1]}
    assert [record.name for record in joint.runs].count("full precision") == 1
    assert (joint.runs[-1].name, len(joint.runs)) == ("awq", len(RUNS) + 2)
    for order in (folders, folders[::-1]):
        (found,) = [one for one in joined(read_sources(order).sweeps)[0].runs if one.name == "hqq"]
        assert found.error is None
    section = leaderboard(read_sources(folders))
    assert section is not None
    (board,) = [block for block in section.blocks if block.title == "Leaderboard of models/tiny"]
    assert "Setting: group_size 64, bits 4 2 3, seeds 0 1." in board.caption
    for number, other in enumerate(({"key": "l"}, {"key": None}, {"setting": {"group_size": 128}})):
        folder = write(tmp_path / f"other{number}", **{**two, **other})
        assert len(joined(read_sources([folders[0], folder]).sweeps)) == 2


def test_the_chart_has_a_line_a_method_and_full_precision(tmp_path: Path) -> None:
    report = build(read_sources([write(tmp_path / "ptq") / "sweep.json"]))
    line, points, rule = report.figures[0].chart.to_dict()["layer"]
    assert line["encoding"]["x"]["field"] == "effective_bits"
    drawn = {(row["method"], row["effective_bits"], row["value"]) for row in points["data"]["values"]}
    assert drawn == {("rtn", 4.5, 30.0), ("gptq (c4.jsonl)", 4.5, 25.0), ("gptq (wiki.txt)", 4.5, 24.0)}
    assert [row["value"] for row in rule["data"]["values"]] == [20.0]


def test_the_table_sorts_by_numbers_and_names_what_failed(tmp_path: Path) -> None:
    report = build(read_sources([write(tmp_path / "ptq")]))
    table = report.tables[0]
    column = table.columns.index("wiki perplexity")
    assert [row[column].value for row in table.rows] == [20.0, 25.0, 24.0, 30.0, None, None]
    assert [row[table.columns.index("Failed")].text for row in table.rows][-2] == "out of luck"
    assert "group_size 64" in table.caption
    page = render(report)
    assert "<b>c4</b>" not in page
    assert "Post-training quantisation" in page


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"runs": []}, "no runs yet"),
        ({"runs": {}}, "damaged"),
        ({"tasks": {"wiki": {}}}, "what its metrics are"),
        ({"runs": [{"kind": "search"}]}, "run 1 of"),
        ({"setting": {"bits": 4}}, "not all lists"),
        ({"setting": {"calibration": [{"a": 1}]}}, "not all lists"),
    ],
    ids=str,
)
def test_damaged_files(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        read_sources([write(tmp_path / "ptq", **changes)])


@pytest.mark.parametrize(
    "changes",
    [
        {"size_mb": 0.0}, {"size_mb": -1}, {"size_before_mb": "big"}, {"effective_bits": [4]}, {"bits": "4"},
        {"bits": None}, {"bits": True}, {"bits": 99}, {"name": 3}, {"seed": "a"}, {"calibration": [1]},
        {"scores": {"wiki": 3.0}}, {"scores": {"wiki": {"perplexity": "low"}}},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_runs(changes: dict[str, Any], tmp_path: Path) -> None:
    (name,) = changes
    with pytest.raises(UserError, match=f"run 2 of .* is damaged: '{name}'"):
        read_sources([write(tmp_path / "ptq", runs=[RUNS[0], {**RUNS[1], **changes}])])
