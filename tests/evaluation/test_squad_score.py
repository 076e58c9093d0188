import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from torchmetrics.functional.text.squad import squad as torchmetrics_squad

from switchq.data.squad import Question, read_squad
from switchq.evaluation.squad_score import SquadMetric, normalise, question_scores

GOLDEN = Path(__file__).parent / "golden" / "squad_official.json"


def mutated(question_id: str, answers: Sequence[str]) -> str:
    """A prediction made from a gold answer, so that full and partial matches are frequent; the id decides which."""
    number = zlib.crc32(question_id.encode())
    gold = answers[number % len(answers)] if answers else "nothing at all"
    words = gold.split()
    return (
        gold,
        gold.upper() + "!",
        f"The {gold}.",
        f"  {gold} \t of   it",
        " ".join(words[1:]),
        " ".join(words[:-1]),
        " ".join(reversed(words)),
        f"{gold} {gold}",
        f"an {gold}, a {words[0] if words else ''} and the rest",
        "",
        "The.",
        "- . -",
        gold.replace(" ", "-"),
        f"{words[-1] if words else ''}\u2019s \u201c{gold}\u201d",
    )[number // 64 % 14]


@pytest.mark.parametrize(
    ("prediction", "answers", "v2", "expected"),
    [
        ("cat", ["cat"], False, (1, 1)),
        ("The  CAT!", ["a cat"], False, (1, 1)),
        ("cat dog", ["cat"], False, (0, 2 / 3)),
        ("cat", ["dog", "black cat", "cat"], False, (1, 1)),
        ("cat cat", ["cat"], False, (0, 2 / 3)),
        ("dog", ["cat"], False, (0, 0)),
        ("", ["cat"], False, (0, 0)),
        ("unanswerable", ["cat"], True, (0, 0)),
        ("unanswerable", ["unanswerable"], False, (1, 1)),
        ("", [], True, (1, 1)),
        ("the", [], True, (1, 1)),
        ("Unanswerable.", [], True, (1, 1)),
        ("cat", [], True, (0, 0)),
        ("", [], False, (1, 1)),
        ("", [".", "cat"], False, (1, 0)),
        ("", [".", "cat"], True, (0, 0)),
        ("", ["."], False, (1, 0)),
        ("", ["."], True, (1, 1)),
        ("unanswerable", ["."], True, (0, 0)),
        ("cat", ["."], True, (0, 0)),
    ],
)
def test_one_question(prediction: str, answers: list[str], v2: bool, expected: tuple[float, float]) -> None:
    assert question_scores(prediction, answers, v2=v2) == pytest.approx(expected)


def test_another_phrase_for_no_answer() -> None:
    assert question_scores("No answer", [], no_answer="no answer") == (1, 1)
    assert question_scores("unanswerable", [], no_answer="no answer") == (0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.S.A.", "usa"),
        ("a an the", ""),
        ("theatre another", "theatre another"),
        ("naïve—café", "naïve—café"),
        ("the-end", "theend"),
        ("\tone\n two ", "one two"),
        ("“the” cat", "“ ” cat"),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return content


def cases(shared: Path, golden: dict[str, Any], version: str, kind: str) -> Iterator[tuple[Question, str]]:
    for question in read_squad(shared / "data" / "squad" / f"dev-v{version}.json"):
        if kind == "mutated":
            yield question, mutated(question.id, question.answers)
        elif question.id in golden["predictions"]:
            yield question, golden["predictions"][question.id]


def records(pairs: list[tuple[Question, str]]) -> dict[str, list[dict[str, Any]]]:
    return {
        "predictions": [{"id": question.id, "prediction_text": text} for question, text in pairs],
        "references": [{"id": question.id, "answers": {"text": list(question.answers)}} for question, _ in pairs],
    }


@pytest.mark.parametrize("kind", ["predicted", "mutated"])
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_every_question_scores_as_in_the_official_script(
    shared: Path, golden: dict[str, Any], version: str, kind: str
) -> None:
    official = golden[f"{version} {kind}"]
    metric = SquadMetric()
    result = metric.compute(**records(list(cases(shared, golden, version, kind))))
    assert "".join(f"{score.exact_match:.0f}" for score in metric.scores) == official["exact"]
    assert [round(1e6 * score.f1) for score in metric.scores] == official["f1"]
    total = {"exact_match" if name == "exact" else name: value for name, value in official["total"].items()}
    assert result == pytest.approx(total, abs=1e-9)


def test_enough_questions_were_compared(golden: dict[str, Any]) -> None:
    assert len(golden["predictions"]) >= 1000
    for kind in ("1.1 mutated", "2.0 mutated"):
        scores = golden[kind]["f1"]
        assert len(scores) >= 1000
        assert min(sum(f1 == 0 for f1 in scores), sum(0 < f1 < 1e6 for f1 in scores), scores.count(10**6)) >= 200


def test_torchmetrics_agrees_on_v1(shared: Path, golden: dict[str, Any]) -> None:
    pairs = [pair for pair in cases(shared, golden, "1.1", "mutated") if all(map(normalise, pair[0].answers))][:400]
    both = records(pairs)
    for reference in both["references"]:
        reference["answers"]["answer_start"] = [0] * len(reference["answers"]["text"])
    theirs = torchmetrics_squad(both["predictions"], both["references"])
    ours = SquadMetric().compute(**records(pairs))
    assert ours == pytest.approx({name: float(value) for name, value in theirs.items()}, abs=1e-3)


PAIRS = [
    (Question("1", "", "", ("the cat",)), "cat"),
    (Question("2", "", "", ("dog house", "dog")), "dog barn"),
    (Question("3", "", "", ("bird",)), "fish"),
]
IMPOSSIBLE = [(Question("4", "", "", ()), "fish"), (Question("5", "", "", ()), "unanswerable")]


def test_the_metric_in_batches_and_twice() -> None:
    metric = SquadMetric()
    whole = SquadMetric().compute(**records(PAIRS))
    assert whole == pytest.approx({"exact_match": 100 / 3, "f1": (100 + 200 / 3) / 3})
    for _ in range(2):
        metric.add_batch(**records(PAIRS[:1]))
        metric.add_batch(**records(PAIRS[1:]))
        assert metric.compute() == whole
        assert [score.id for score in metric.scores] == ["1", "2", "3"]


def test_the_metric_names_what_the_v2_script_names() -> None:
    assert SquadMetric().compute(**records([*PAIRS, *IMPOSSIBLE])) == pytest.approx(
        {
            "exact_match": 40,
            "f1": (100 + 200 / 3 + 100) / 5,
            "total": 5,
            "HasAns_exact": 100 / 3,
            "HasAns_f1": (100 + 200 / 3) / 3,
            "HasAns_total": 3,
            "NoAns_exact": 50,
            "NoAns_f1": 50,
            "NoAns_total": 2,
        }
    )
    assert "HasAns_f1" not in SquadMetric().compute(**records(IMPOSSIBLE))


def test_the_metric_combines_with_others() -> None:
    both = evaluate.combine([SquadMetric(), SquadMetric(no_answer="no answer")], force_prefix=True)
    result = both.compute(**records([*PAIRS, *IMPOSSIBLE]))
    assert (result["squad_metric_0_NoAns_exact"], result["squad_metric_1_NoAns_exact"]) == (50, 0)


def test_the_metric_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, numbers = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    cache = tmp_path / "cache"
    SquadMetric(cache_dir=str(cache)).compute(**records(PAIRS))
    assert not cache.exists()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)


def test_predictions_out_of_order_are_refused() -> None:
    shuffled = records(PAIRS)
    shuffled["references"].reverse()
    with pytest.raises(ValueError, match="stands beside"):
        SquadMetric().compute(**shuffled)
