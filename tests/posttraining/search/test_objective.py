"""Evaluation in parts: never twice, counted, and the same figures as `evaluate`."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from workshop import Workshop, questions

from switchq.bitmap import Bitmap
from switchq.data.scoring_set import ScoringSet
from switchq.evaluation import evaluate
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.nn import at, get_switch, switch_layers
from switchq.posttraining.search import Evolution, Metric, Objective, run_methods
from switchq.posttraining.search.measure import ModelMeasure
from switchq.posttraining.search.objective import look_sizes

from .conftest import Threshold, make_space, make_study


def test_looks_double_and_are_nested() -> None:
    for count in (1, 15, 31, 32, 100, 200, 999):
        sizes = look_sizes(count)
        assert sizes[-1] == count
        assert sizes[0] >= min(12, count)
        assert all(2 * size in (next_size, next_size - 1) for size, next_size in zip(sizes, sizes[1:]))
    looks = make_study(make_space(2), Threshold(make_space(2), 200, 0), 200).objective.looks
    assert [len(look) for look in looks] == [12, 25, 50, 100, 200]


def test_no_question_is_evaluated_twice_by_all_methods_together() -> None:
    space = make_space(8)
    measure = Threshold(space, 100, seed=1)
    study = make_study(space, measure, 100)
    methods = ("greedy", "ilp", "evolution", "greedy-plain")
    records = run_methods(study, methods, measure.damage_LW, measure.damage_LW, Evolution(6, 8))
    asked = Counter((bitmap, question) for bitmap, rows in measure.calls for question in rows)
    assert set(asked.values()) == {1}
    assert sum(record["question_evaluations"] for record in records.values()) == asked.total()
    assert records["greedy-plain"]["cache_hits"] > 0
    assert sum(record["seconds"] for record in records.values()) == pytest.approx(0.5 * len(measure.calls))


def test_a_part_does_not_depend_on_what_was_asked_before() -> None:
    space = make_space(4)
    measure = Threshold(space, 100, seed=1)
    bitmap = Bitmap([8, 4, 2, 8])
    one, other = (make_study(space, measure, 100).objective for _ in range(2))
    whole = one.score(bitmap)
    part = other.score(bitmap, (37, 3, 4))
    assert (whole.questions, part.questions) == (100, 3)
    assert one.score(bitmap, (37, 3, 4)).figures == part.figures
    assert other.score(bitmap).figures == whole.figures
    assert [len(rows) for _, rows in measure.calls] == [100, 3, 97]
    assert other.missing(bitmap) == 0
    assert other.missing(Bitmap([8, 8, 8, 8])) == 100


@pytest.fixture(scope="module")
def parts(workshop: Workshop) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ScoringSet]:
    model = make_switchable(load_model(str(workshop.base)), adapters=False)
    asked = ScoringSet("houses", questions=questions(40), batch_size=8, max_new_tokens=4)
    return model, load_tokenizer(str(workshop.base)), asked


@pytest.mark.parametrize("written", ["16", "8/4", "2"])
def test_f1_em_and_perplexity_are_those_of_evaluate(parts: Any, written: str) -> None:
    model, tokenizer, asked = parts
    names = get_switch(model).names
    (expected,) = evaluate(model, tokenizer, asked, [written], progress=False, run={})
    bitmap = Bitmap.parse(written, names)
    for name, also in {"F1": "EM", "perplexity": "perplexity"}.items():
        measure = ModelMeasure(model, tokenizer, asked, Metric(name))  # type: ignore[arg-type]
        found = Objective(measure, len(names), 40, measure.metric, 0.3).score(bitmap).figures
        value = {"F1": expected.F1, "EM": expected.EM, "perplexity": expected.answer_perplexity}
        assert found[name] == pytest.approx(value[name], rel=1e-5)
        assert found[also] == pytest.approx(value[also], rel=1e-5)


def test_kl_against_whole_logits(parts: Any) -> None:
    model, tokenizer, asked = parts
    measure = ModelMeasure(model, tokenizer, asked, Metric("KL"))
    bitmap = Bitmap.parse("4/2", get_switch(model).names)
    found = measure(bitmap, range(12))
    for row, item in enumerate(measure.encoded[:12]):
        ids = torch.tensor([item.prompt_ids + item.answer_ids])
        with torch.no_grad():
            full = model(ids).logits[0].double().log_softmax(-1)
            with at(model, bitmap):
                narrow = model(ids).logits[0].double().log_softmax(-1)
        kl = (full.exp() * (full - narrow)).sum(-1)[len(item.prompt_ids) - 1 : -1]
        assert found.values["KL"][row] == pytest.approx(float(kl.sum()), rel=1e-3, abs=1e-6)
        assert found.weights[row] == len(item.answer_ids)
    same = measure(Bitmap.parse("16", get_switch(model).names), range(12))
    assert max(same.values["KL"]) == pytest.approx(0, abs=1e-6)


def test_kl_without_room_for_references_is_the_same(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, asked = parts
    bitmap = Bitmap.parse("2", get_switch(model).names)
    kept = ModelMeasure(model, tokenizer, asked, Metric("KL"))
    expected = kept(bitmap, range(40)).values
    monkeypatch.setattr("switchq.posttraining.search.measure.REFERENCE_BYTES", 0)
    bare = ModelMeasure(model, tokenizer, asked, Metric("KL"))
    assert bare(bitmap, range(40)).values == expected
    assert (bare._references, len(kept._references or [])) == ([], 40)


def test_the_model_is_left_as_it_was(parts: Any) -> None:
    model, tokenizer, asked = parts
    model.train()
    with at(model, "4"):
        ModelMeasure(model, tokenizer, asked, Metric("F1"))(Bitmap([2] * len(switch_layers(model))), range(4))
        assert [layer.bits for layer in switch_layers(model)] == [4] * len(switch_layers(model))
    assert model.training
    model.eval()
