"""`switchq eval`: the table, the JSON, and its options."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workshop import Workshop, questions, write_questions

from switchq.data.squad import Question

from .conftest import Outcome, Run

Switchq = Callable[..., Outcome]


def results(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    return found


def test_one_record_per_bitmap_in_the_order_given(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    mixed = "8,4,2,8,8,4,2,8"
    asked = ["2", "8", mixed, "attn=8,mlp=4", "16", "8"]
    bitmaps = [word for bitmap in asked for word in ("--bitmap", bitmap)]
    output = tmp_path / "new" / "results.json"
    done = switchq("eval", "--ckpt", run.checkpoint, *bitmaps, "--output", output)
    assert done.code == 0, done.err
    rows = results(output)
    assert [row["bits"] for row in rows] == [
        [2] * 8, [8] * 8, [8, 4, 2, 8, 8, 4, 2, 8], [8, 8, 4, 4] * 2, [16] * 8, [8] * 8,
    ]  # fmt: skip
    for row in rows:
        assert 0 <= row["EM"] <= row["F1"] <= 100
        assert row["n_questions"] == 6
        assert row.keys() >= {
            "bitmap", "average_bits", "answer_perplexity", "peak_memory_mb", "tokens_per_s", "latency_ms", "weight_mb",
        }  # fmt: skip
    assert {name: rows[1][name] for name in ("EM", "F1")} == {name: rows[5][name] for name in ("EM", "F1")}
    assert rows[0]["weight_mb"] < rows[1]["weight_mb"] < rows[4]["weight_mb"]
    assert "F1" in done.out
    assert str(output) in done.out
    assert [line for line in done.err.splitlines() if line.strip() and not line.startswith("eval ")] == []


def test_the_record_says_how_to_repeat_the_run(run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    assert switchq("eval", "--ckpt", run.checkpoint, "--bitmap", 8, "--output", tmp_path / "r.json").code == 0
    (row,) = results(tmp_path / "r.json")
    record = row["run"]
    assert record["base"] == str(workshop.base)
    assert len(record["base_hash"]) == len(record["checkpoint_sha256"]) == len(record["data_sha256"]) == 64
    assert record["checkpoint"] == str(run.checkpoint)
    assert record["data"] == str(workshop.dev)
    assert {"torch", "transformers", "peft", "lightning"} <= record["versions"].keys()
    settings = record["settings"]
    assert settings["bits"] == [8, 4, 2]
    assert {"template", "no_answer", "batch_size", "max_new_tokens"} <= settings["scoring"].keys()


def test_the_default_is_16_and_the_ladder_on_the_dev_set_of_the_training(
    run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    assert switchq("eval", "--ckpt", run.checkpoint, "--output", tmp_path / "r.json").code == 0
    rows = results(tmp_path / "r.json")
    assert [row["bitmap"] for row in rows] == ["16", "8", "8/4", "4", "4/2", "2"]
    assert {row["run"]["data"] for row in rows} == {str(workshop.dev)}


def test_the_scores_are_those_of_the_end_of_the_training(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    bitmaps = ("--bitmap", 16, "--bitmap", 8, "--bitmap", 2)
    options = ("--max_new_tokens", 3, "--output", tmp_path / "r.json")
    assert switchq("eval", "--ckpt", run.checkpoint, *bitmaps, *options).code == 0
    for row, end in zip(results(tmp_path / "r.json"), results(run.folder / "results.json"), strict=True):
        assert (row["bitmap"], row["F1"], row["EM"]) == (end["bitmap"], end["F1"], end["EM"])
        assert row["answer_perplexity"] == pytest.approx(end["answer_perplexity"], rel=1e-4)


def test_with_and_without_adapters(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    bitmaps = ("--bitmap", 16, "--bitmap", 2)
    rows = {}
    for choice in ("both", "on", "off"):
        output = tmp_path / f"{choice}.json"
        assert switchq("eval", "--ckpt", run.checkpoint, *bitmaps, "--adapters", choice, "--output", output).code == 0
        rows[choice] = [
            (row["bitmap"], row["adapters"], pytest.approx(row["answer_perplexity"])) for row in results(output)
        ]
    assert [row[:2] for row in rows["both"]] == [("16", True), ("16", False), ("2", True), ("2", False)]
    assert rows["both"][::2] == rows["on"]
    assert rows["both"][1::2] == rows["off"]
    assert rows["on"] != rows["off"]


def test_text_alone_and_beside_questions(run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    (tmp_path / "houses.txt").write_text("House 1 is in Rome. It has a red door. " * 30)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "houses.txt").write_text("It has a red door. " * 30)
    text = ("--text", tmp_path / "houses.txt", "--text", tmp_path / "other" / "houses.txt", "--window", 32)
    output = ("--bitmap", 8, "--output", tmp_path / "r.json")
    done = switchq("eval", "--ckpt", run.checkpoint, *text, *output)
    assert done.code == 0, done.err
    (row,) = results(tmp_path / "r.json")
    assert row["text_perplexity"].keys() == {f"{tmp_path.name}-houses", "other-houses"}
    assert "F1" not in row
    assert switchq("eval", "--ckpt", run.checkpoint, *text, "--data", workshop.dev, *output).code == 0
    (both,) = results(tmp_path / "r.json")
    assert both["text_perplexity"] == pytest.approx(row["text_perplexity"])
    assert both["n_questions"] == 6


def test_limit_and_predictions(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    options = ("--limit", 3, "--predictions", tmp_path / "answers", "--output", tmp_path / "r.json")
    assert switchq("eval", "--ckpt", run.checkpoint, "--bitmap", 8, "--bitmap", 2, *options).code == 0
    assert [row["n_questions"] for row in results(tmp_path / "r.json")] == [3, 3]
    files = sorted((tmp_path / "answers").iterdir())
    assert [file.name for file in files] == ["00.json", "01.json"]
    assert all(len(json.loads(file.read_text())) == 3 for file in files)


def test_cut_contexts_are_reported(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    long = Question("long", "It has a red door. " * 40, "What is red?", ("door",))
    data = write_questions(tmp_path / "long.json", [long, *questions(3)])
    done = switchq("eval", "--ckpt", run.checkpoint, "--bitmap", 8, "--data", data)
    assert "1 of 4 contexts were cut" in done.out


def test_a_plain_model_is_rounded_without_training(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    options = ("--data", workshop.dev, "--output", tmp_path / "r.json")
    done = switchq("eval", "--model", workshop.base, *options)
    assert done.code == 0, done.err
    rows = results(tmp_path / "r.json")
    assert [row["bitmap"] for row in rows] == ["16", "8", "8/4", "4", "4/2", "2"]
    assert all(row["weight_parts_mb"].get("adapters", 0) == 0 for row in rows)
    assert rows[0]["run"]["base_hash"]


def test_equals_signs_and_a_file_of_settings(run: Run, tmp_path: Path, switchq: Switchq) -> None:
    (tmp_path / "map.json").write_text("[8, 8, 8, 8, 2, 2, 2, 2]")
    done = switchq(
        "eval", f"--ckpt={run.checkpoint}", f"--bitmap=@{tmp_path / 'map.json'}", "--bitmap=8/2",
        f"--output={tmp_path / 'r.json'}", "--limit=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [row["bits"] for row in results(tmp_path / "r.json")] == [[8] * 4 + [2] * 4, [8, 2] * 4]
