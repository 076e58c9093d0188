"""Comparing two runs: which figures may be compared, and what is said of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from switchq.errors import UserError
from switchq.evaluation.tasks import Items
from switchq.posttraining.ptq.difference import Scored, compare, read_scored
from switchq.posttraining.ptq.results import RunRecord, pack_items, unpack_items, write_run

TASKS = {
    "text": {
        "class_path": "Perplexity",
        "sha256": "a",
        "protocol": "p",
        "metrics": [{"name": "perplexity", "better": "lower", "form": "perplexity"}],
    },
    "arc": {
        "class_path": "MultipleChoice",
        "sha256": "b",
        "protocol": "p",
        "metrics": [
            {"name": "accuracy", "better": "higher", "form": ".1f"},
            {"name": "macro F1", "better": "higher", "form": ".1f"},
        ],
    },
}


def scored(nll: float, right: float, tasks: Any = TASKS) -> Scored:
    items = {
        "text": {"perplexity": Items(tuple(nll + i / 100 for i in range(20)), (1.0,) * 20, "exp")},
        "arc": {"accuracy": Items(tuple(100.0 * (i % 10 < right) for i in range(50)))},
    }
    return Scored(Path("run.json"), RunRecord("rtn", 4, tasks=tasks), items)


def test_the_second_is_compared_with_the_first() -> None:
    text, arc = compare(scored(1.0, 5), scored(1.2, 7))
    assert (text.task, text.metric, text.verdict) == ("text", "perplexity", "worse")
    assert text.difference == pytest.approx(math.exp(1.295) - math.exp(1.095))
    assert (arc.metric, arc.difference, arc.examples, arc.verdict) == ("accuracy", pytest.approx(20.0), 50, "better")
    (back, _) = compare(scored(1.2, 7), scored(1.0, 5))
    assert (back.difference, back.verdict) == (pytest.approx(-text.difference), "better")


def test_nothing_is_said_of_what_does_not_differ() -> None:
    text, arc = compare(scored(1.0, 5), scored(1.0, 5))
    assert [(one.low, one.high, one.verdict) for one in (text, arc)] == [(0, 0, "unclear")] * 2


def test_other_examples_are_left_out() -> None:
    other = {**TASKS, "text": {**TASKS["text"], "sha256": "z"}}
    assert [one.task for one in compare(scored(1, 5), scored(1, 6, other))] == ["arc"]
    nothing = {name: {**task, "protocol": "q"} for name, task in TASKS.items()}
    with pytest.raises(UserError, match="share no task"):
        compare(scored(1, 5), scored(1, 6, nothing))


def test_values_survive_the_disk_and_one_changed_byte_is_found(tmp_path: Path) -> None:
    one = scored(1.0, 5)
    content = pack_items(one.items)
    assert pack_items(one.items) == content
    import hashlib

    record = replace(one.record, items_sha256=hashlib.sha256(content).hexdigest())
    write_run(tmp_path / "r.json", record, content)
    assert read_scored(tmp_path / "r.json").items == one.items
    damaged = bytearray(content)
    damaged[40] ^= 1
    (tmp_path / "r.npz").write_bytes(damaged)
    with pytest.raises(UserError, match="its hash is not that of its record"):
        read_scored(tmp_path / "r.json")
    (tmp_path / "r.npz").write_bytes(content[:50])
    with pytest.raises(UserError, match="damaged"):
        unpack_items(tmp_path / "r.npz", None)


def test_a_failed_run_is_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "r.json", RunRecord("rtn", 4, error="out of luck"), None)
    with pytest.raises(UserError, match=r"failed \(out of luck\)"):
        read_scored(tmp_path / "r.json")
