"""Reading SQuAD: what a good file gives, and the one line that each kind of bad file gives."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from switchq import hub
from switchq.data.squad import Question, read_squad
from switchq.errors import UserError

from .conftest import CONTEXTS, squad_document


def test_reads_the_official_layout(write_squad: Callable[..., Path]) -> None:
    questions = read_squad(write_squad())
    assert [question.id for question in questions] == ["q0", "q1", "q2", "q3", "q4"]
    assert questions[0] == Question(
        "q0", CONTEXTS["Rivers"], "Where does the Rhine rise?", ("the Alps", "in the Alps"), "Rivers"
    )
    assert questions[4].answers == ()


def test_version_1_1_has_no_is_impossible(write_squad: Callable[..., Path]) -> None:
    document = squad_document()
    del document["data"][1]["paragraphs"][0]["qas"][2]
    for article in document["data"]:
        for qa in article["paragraphs"][0]["qas"]:
            del qa["is_impossible"]
    assert len(read_squad(write_squad(document))) == 4


QA = "train.json: data[1].paragraphs[0].qas[1]"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda d: d.pop("data"), "train.json: 'data' is missing", id="no data"),
        pytest.param(lambda d: d.update(data={}), "train.json: 'data' must be a list, not dict", id="data no list"),
        pytest.param(
            lambda d: d["data"][1].pop("paragraphs"), "train.json: data[1]: 'paragraphs' is missing", id="no paragraphs"
        ),
        pytest.param(
            lambda d: d["data"][0]["paragraphs"].append("text"),
            "train.json: data[0].paragraphs[1]: expected an object with 'context', found str",
            id="paragraph no object",
        ),
        pytest.param(
            lambda d: d["data"][1]["paragraphs"][0]["qas"][1].pop("answers"),
            f"{QA}: 'answers' is missing",
            id="no answers",
        ),
        pytest.param(
            lambda d: d["data"][1]["paragraphs"][0]["qas"][1].update(answers=[]),
            f"{QA}: 'answers' is empty, but 'is_impossible' is not set",
            id="answers empty",
        ),
        pytest.param(
            lambda d: d["data"][1]["paragraphs"][0]["qas"][1].update(answers=[{"text": 3}]),
            f"{QA}.answers[0]: 'text' must be a str, not int",
            id="answer no text",
        ),
        pytest.param(
            lambda d: d["data"][1]["paragraphs"][0]["qas"][1].update(question=None),
            f"{QA}: 'question' must be a str, not NoneType",
            id="question null",
        ),
    ],
)
def test_a_malformed_file_names_the_record(
    write_squad: Callable[..., Path], damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    document = squad_document()
    damage(document)
    path = write_squad(document)
    with pytest.raises(UserError) as error:
        read_squad(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b'{"data": [', "not JSON", id="cut off"),
        pytest.param(b"", "not JSON", id="empty file"),
        pytest.param(b'{"data": "caf\xe9"}', "not UTF-8", id="latin-1"),
        pytest.param(b'{"data": []}', "empty data set", id="no articles"),
        pytest.param(b"[1, 2]", "expected an object with 'data', found list", id="list"),
        pytest.param(b'{"data": [{"paragraphs": [], "title": "\\ud800"}]}', "surrogate pair", id="half a pair"),
        pytest.param(b"[" * 200_000, "nested too deeply", id="deep"),
        pytest.param(None, "no such file", id="missing"),
    ],
)
def test_an_unreadable_file_gives_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "train.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_squad(path)
    assert str(error.value).count("train.json") == 1
    assert "\n" not in str(error.value)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_squad(tmp_path)


@pytest.mark.parametrize("offline", ["switched off", "out of reach"])
def test_without_the_hub_the_message_comes_soon_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline == "switched off")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"use a local file instead, such as PATH/train-v1\.1\.json\.$"):
        read_squad("rajpurkar/squad-not-in-any-cache", "train")
    assert time.monotonic() - began < hub.PROBE_SECONDS + 5
    assert not datasets.config.HF_HUB_OFFLINE or offline == "switched off"


def test_hub_rows_become_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [{"text": ["the Alps"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    columns = {"id": ["a", "b"], "title": ["t", "t"], "context": ["c", "c"], "question": ["q", "r"], "answers": answers}
    table = datasets.Dataset.from_dict(columns)
    monkeypatch.setattr("switchq.data.squad.load_hub", lambda name, split, advice: table)
    assert read_squad("rajpurkar/squad_v2") == [
        Question("a", "c", "q", ("the Alps",), "t"),
        Question("b", "c", "r", (), "t"),
    ]
    monkeypatch.setattr("switchq.data.squad.load_hub", lambda name, split, advice: table.remove_columns("answers"))
    with pytest.raises(UserError, match="no column answers"):
        read_squad("owner/other")


@pytest.mark.parametrize(
    ("name", "count", "unanswerable"),
    [("train-v1.1.json", 8026, False), ("dev-v1.1.json", 1212, False), ("dev-v2.0.json", 1801, True)],
)
def test_real_files(shared: Path, name: str, count: int, unanswerable: bool) -> None:
    questions = read_squad(shared / "data" / "squad" / name)
    assert len(questions) == count
    assert any(not question.answers for question in questions) is unanswerable
    assert all(answer in question.context for question in questions for answer in question.answers)
