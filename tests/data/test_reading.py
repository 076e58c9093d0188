"""The embedded reading set: its layout, its promises about unseen names and distractors, and its rebuild."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from switchq.data.reading import SPLITS, main, make_paragraph, split_of, write_reading_set
from switchq.data.relations import RELATIONS
from switchq.data.squad import read_squad
from switchq.errors import UserError

READING = Path(__file__).parents[2] / "data" / "reading"
MINIMUM = {"train": 6000, "dev": 1000}


def paragraphs(split: str) -> list[dict[str, Any]]:
    document = json.loads((READING / f"{split}.json").read_text(encoding="utf-8"))
    assert document["version"] == "1.1"
    return [paragraph for article in document["data"] for paragraph in article["paragraphs"]]


def words(split: str) -> set[str]:
    texts = (text for p in paragraphs(split) for text in [p["context"], *(qa["question"] for qa in p["qas"])])
    return {word for text in texts for word in re.findall(r"\w+", text)}


@pytest.mark.parametrize("split", ["train", "dev"])
def test_committed_file_is_valid_squad(split: str) -> None:
    ids = []
    for paragraph in paragraphs(split):
        for qa in paragraph["qas"]:
            ids.append(qa["id"])
            (answer,) = qa["answers"]
            start, text = answer["answer_start"], answer["text"]
            assert text
            assert paragraph["context"][start : start + len(text)] == text
            assert paragraph["context"].count(text) == 1
    assert len(ids) == len(set(ids)) == SPLITS[split] >= MINIMUM[split]
    assert len(read_squad(READING / f"{split}.json")) == len(ids)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_relation_is_asked_about(split: str) -> None:
    patterns = {
        relation.name: [re.escape(question).replace(r"\{s\}", r"\w+( \w+)*") for question in relation.questions]
        for relation in RELATIONS
    }
    asked = [qa["question"] for paragraph in paragraphs(split) for qa in paragraph["qas"]]
    counts = {
        name: sum(any(re.fullmatch(pattern, question) for pattern in some) for question in asked)
        for name, some in patterns.items()
    }
    assert len(counts) >= 15
    assert min(counts.values()) >= len(asked) / len(counts) / 3


def test_no_made_up_word_of_dev_occurs_in_train() -> None:
    templates = {word for r in RELATIONS for text in (*r.facts, *r.questions) for word in re.findall(r"\w+", text)}
    fixed = templates | {"The", "Works", "Press", "Mills", "Group", "Brothers"}
    fixed |= {"Garden", "Letters", "Mirror", "Songs", "Winter"}
    train, dev = words("train") - fixed, words("dev") - fixed
    assert len(train) > 5000
    assert len(dev) > 1000
    assert not train & dev
    answers = [qa["answers"][0]["text"] for p in paragraphs("dev") for qa in p["qas"]]
    assert all(set(answer.split()) & dev for answer in answers)


def test_dev_names_are_kept_out_of_any_training_stream() -> None:
    dev = words("dev")
    rng = random.Random(7)
    answers = {fact.answer for _ in range(500) for fact in make_paragraph(rng, "train").facts}
    assert not answers & dev
    assert {split_of(part) for answer in answers for part in answer.split()[:1]} == {"train"}


def test_every_question_has_both_sorts_of_distractors() -> None:
    rng = random.Random(0)
    for _ in range(300):
        paragraph = make_paragraph(rng, "train")
        by_relation = Counter(fact.relation.name for fact in paragraph.facts)
        assert len(by_relation) >= 2
        assert min(by_relation.values()) >= 2
        assert len({fact.answer for fact in paragraph.facts}) == len(paragraph.facts)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_templates_hold_their_names_once(relation: Any) -> None:
    assert len(set(relation.facts)) >= 3
    assert len(set(relation.questions)) >= 3
    assert all(fact.count("{s}") == fact.count("{o}") == 1 for fact in relation.facts)
    assert all(question.count("{s}") == 1 and "{o}" not in question for question in relation.questions)


def test_rebuild_is_byte_identical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--seed", "0"]) == 0
    assert "dev.json" in capsys.readouterr().out
    for split in SPLITS:
        assert (tmp_path / f"{split}.json").read_bytes() == (READING / f"{split}.json").read_bytes()


def test_another_seed_gives_another_set(tmp_path: Path) -> None:
    for path in write_reading_set(tmp_path, seed=1):
        assert path.read_bytes() != (READING / path.name).read_bytes()


def test_unwritable_output_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the reading set"):
        write_reading_set(tmp_path / "file")
    assert main(["--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
