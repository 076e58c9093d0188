"""The file of sensitivities: it reads back, belongs to one model, and says what is wrong with it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from switchq.errors import UserError
from switchq.posttraining.sensitivity import Sensitivity

RESULT = Sensitivity(
    layers=("h.0.a", "h.0.b"),
    weights=(6, 4),
    bits=(8, 4),
    scores={"kl": {8: (0.1, 0.2), 4: (1.0, math.inf)}},
    correlations={"kl": {"kl": 1.0}},
    run={"base_hash": "ab", "checkpoint_sha256": None, "base": "tiny"},
    cost={"kl": {"seconds": 1.5}},
)


def test_reads_back_with_infinite_scores(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "s.json")
    assert Sensitivity.read(tmp_path / "s.json") == RESULT


@pytest.mark.parametrize(("bits", "row"), [(8, 8), (4, 4), (6, 4), (7, 4), (16, 8)])
def test_a_width_that_was_not_measured_has_the_score_of_the_next_narrower(bits: int, row: int) -> None:
    assert RESULT.score("kl", bits) == RESULT.scores["kl"][row]


def test_nothing_stands_in_for_a_width_narrower_than_all() -> None:
    with pytest.raises(UserError, match="nothing of 3 bits, the narrowest measured are 4"):
        RESULT.score("kl", 3)


def test_an_unknown_score_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no score 'mse'; they hold kl"):
        RESULT.score("mse", 8)


def test_whose_they_are() -> None:
    RESULT.check("ab", None, RESULT.layers, None)
    others: list[tuple[Any, ...]] = [("cd", None, RESULT.layers), ("ab", "ef", RESULT.layers), ("ab", None, ("h.0.a",))]
    for other in others:
        with pytest.raises(UserError, match=r"another model \(tiny"):
            RESULT.check(*other, None)
    with pytest.raises(UserError, match="another grid"):
        RESULT.check("ab", None, RESULT.layers, {"class_path": "Symmetric"})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: "no json", "not JSON"),
        (lambda content: [1], "holds no sensitivities"),
        (lambda content: {**content, "kind": "search"}, "holds no sensitivities"),
        (lambda content: {**content, "layers": content["layers"][:1]}, "damaged"),
        (lambda content: {**content, "scores": {}}, "damaged"),
        (lambda content: {**content, "bits": [8, 4, 2]}, "damaged"),
        (lambda content: {**content, "scores": {"kl": {"8": ["x", 1], "4": [1, 1]}}}, "damaged"),
        (lambda content: {key: value for key, value in content.items() if key != "run"}, "damaged"),
    ],
    ids=["text", "list", "another kind", "a layer less", "no scores", "a width more", "words", "no run"],
)
def test_damaged(damage: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    RESULT.write(path)
    content = damage(json.loads(path.read_text()))
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=says):
        Sensitivity.read(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        Sensitivity.read(tmp_path / "none.json")


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        replace(RESULT, bits=(8, 4)).write(tmp_path / "file" / "s.json")
