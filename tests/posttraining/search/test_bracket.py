"""Verdicts on a part of the questions, against those on all."""

import numpy as np

from .conftest import Divergence, make_space, make_study

QUESTIONS = 100


def test_by_divergence_a_part_of_the_questions_tells() -> None:
    """Bitmaps with losses from none to twice the budget; no more than two in a hundred are judged wrongly."""
    wrong = asked = judged = 0
    for seed in range(4):
        space = make_space(16)
        measure, rng = Divergence(space, QUESTIONS, seed), np.random.default_rng(seed)
        for _ in range(50):
            study = make_study(space, measure, QUESTIONS, 0.1, "KL")
            study.references()
            bitmap = space.bitmap(rng.choice(space.choices, size=16, p=[0.1, 0.3, 0.4, 0.2]).tolist())
            before = study.objective.evaluated["references"]
            verdict = study.bracket(bitmap, QUESTIONS)
            asked += study.objective.evaluated["references"] - before
            judged += 1
            wrong += verdict != study.objective.within(bitmap)
    assert wrong <= judged / 50
    assert asked < judged * QUESTIONS / 3


def test_too_few_evaluations_to_tell_is_a_refusal() -> None:
    space = make_space(16)
    study = make_study(space, Divergence(space, QUESTIONS, 0), QUESTIONS, 10.0, "KL")
    bitmap = space.bitmap([4] * 16)
    assert not study.bracket(bitmap, 5)
    assert study.objective.missing(bitmap) == QUESTIONS - 5
