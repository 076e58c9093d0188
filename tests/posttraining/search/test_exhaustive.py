"""On a model with four switchable layers the search finds what enumerating all 256 bitmaps finds."""

import itertools

import numpy as np
import pytest
from transformers import PreTrainedModel
from workshop import Workshop, questions

from switchq.data.scoring_set import ScoringSet
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.posttraining.search import Evolution, Metric, Study, run_methods, search_space
from switchq.posttraining.search.front import covers, hypervolume
from switchq.posttraining.search.measure import ModelMeasure

from .conftest import make_study


def one_block(base: str) -> PreTrainedModel:
    """The workshop's model without its second block."""
    model = load_model(base)
    model.transformer.h = model.transformer.h[:1]
    model.config.n_layer = 1
    return make_switchable(model, adapters=False)


@pytest.fixture(scope="module")
def everything(workshop: Workshop) -> Study:
    """All assignments of 16, 8, 4 and 2 bits, by KL from full precision."""
    model, tokenizer = one_block(str(workshop.base)), load_tokenizer(str(workshop.base))
    asked = ScoringSet("houses", questions=questions(24), batch_size=24)
    measure = ModelMeasure(model, tokenizer, asked, Metric("KL"))
    study = make_study(search_space(model, (8, 4, 2)), measure, 24, 0.3, "KL")
    for genome in itertools.product(study.space.choices, repeat=4):
        study.score(study.space.bitmap(genome))
    return study


@pytest.mark.parametrize("budget", [0.0005, 0.005, 0.05, 0.15, 0.5, 2.0])
def test_the_chosen_bitmap_is_the_optimum(everything: Study, budget: float) -> None:
    objective = everything.objective
    study = make_study(everything.space, objective.measure, 24, budget, "KL")
    single = [
        [0.0] + [objective.score(study.space.bitmap(tuple(bits if u == unit else 16 for u in range(4)))).figures["KL"]
                 for bits in study.space.widths]
        for unit in range(4)
    ]  # fmt: skip
    scores = np.array(single)
    run_methods(study, ("greedy", "ilp", "evolution"), scores, scores, Evolution())
    chosen = study.chosen()
    assert chosen is not None
    metric = Metric("KL")
    kept = [
        everything.price(bitmap)
        for bitmap, scored in everything.points.items()
        if metric.drop(scored.figures["KL"], 0.0) <= budget
    ]
    assert everything.price(chosen.bitmap) == pytest.approx(min(kept))
    assert study.objective.evaluated.total() < objective.evaluated.total()
    # and the rest of the front is close to the true one; a figure depends on its batch in the last digits, so both
    # fronts get theirs from the same evaluation
    true = [everything.point(scored) for scored in everything.front()]
    found = [everything.point(everything.points[scored.bitmap]) for scored in study.front()]
    assert covers(true, found)
    corner = (16.0, 0.5)
    assert hypervolume(found, corner) > 0.98 * hypervolume(true, corner)
