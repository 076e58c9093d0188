"""Points along a path, where losses add up, against the best choice of as many."""

from itertools import combinations

import numpy as np
import pytest

from switchq.posttraining.search import Study
from switchq.posttraining.search.front import hypervolume
from switchq.posttraining.search.place import place
from switchq.posttraining.search.report import reference_point
from switchq.posttraining.search.space import Genome

from .conftest import Array, Divergence, make_space, make_study

QUESTIONS, UNITS = 50, 12


def descent(seed: int, sigma: float) -> tuple[Study, list[Genome], Array]:
    """A study that knows both ends of a path, the path, and sensitivities with some noise."""
    space = make_space(UNITS, (4,))
    measure = Divergence(space, QUESTIONS, seed)
    scores = measure.damage_LW * np.random.default_rng(seed).lognormal(sigma=sigma, size=measure.damage_LW.shape)
    order = np.argsort(scores[:, 1])
    path = [tuple(4 if unit in order[:step] else 16 for unit in range(UNITS)) for step in range(UNITS + 1)]
    study = make_study(space, measure, QUESTIONS, 0.6, "KL")
    for end in (path[0], path[-1]):
        study.score(space.bitmap(end))
    study.start("greedy")
    return study, path, scores


def volume(study: Study, genomes: list[Genome]) -> float:
    """Of these bitmaps alone; what they are evaluated at is kept."""
    points = [study.point(study.objective.score(study.space.bitmap(genome))) for genome in genomes]
    return hypervolume(points, reference_point(study))


def worth(seed: int, sigma: float, trusted: bool = True) -> float:
    """The volume of the three points that were placed, as a part of that of the best three."""
    study, path, scores = descent(seed, sigma)
    place(study, path, scores if trusted else np.zeros_like(scores), 3 * QUESTIONS)
    found = [genome for genome in path if study.space.bitmap(genome) in study.points]
    assert len(found) == 5
    best = max(volume(study, [path[0], path[-1], *three]) for three in combinations(path[1:-1], 3))
    return volume(study, found) / best


@pytest.mark.parametrize("seed", range(10))
def test_nearly_the_best_three_points(seed: int) -> None:
    assert worth(seed, sigma=0.0) >= 0.985


def test_sensitivities_need_not_be_right() -> None:
    """With noise of half their size they still place points better than counting steps does."""
    noisy = np.mean([worth(seed, sigma=0.4) for seed in range(10)])
    counted = np.mean([worth(seed, sigma=0.4, trusted=False) for seed in range(10)])
    assert noisy >= 0.985
    assert noisy > counted + 0.01


def test_the_allowance_is_kept_and_what_was_asked_counts() -> None:
    study, path, scores = descent(0, 0.0)
    half = study.space.bitmap(path[6])
    study.objective.score(half, range(40))
    place(study, path, scores, 10)
    assert half in study.points
    assert study.objective.evaluated["greedy"] == 50


def test_too_little_for_any_point_is_not_spent() -> None:
    study, path, scores = descent(0, 0.0)
    place(study, path, scores, QUESTIONS - 1)
    assert study.objective.evaluated["greedy"] == 0
