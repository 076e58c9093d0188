"""Evolution: the seed decides, the front never gets worse, and small spaces are solved."""

import itertools

import pytest

from switchq.posttraining.search import Evolution, Study, run_methods
from switchq.posttraining.search.front import covers, hypervolume

from .conftest import Threshold, make_space, make_study


def searched(seed: int, generations: int = 8, **options: object) -> Study:
    space = make_space(12, seed=2)
    measure = Threshold(space, 100, seed=4)
    study = make_study(space, measure, 100, seed=seed, **options)  # type: ignore[arg-type]
    run_methods(study, ("evolution",), None, None, Evolution(generations, 8))
    return study


def test_the_seed_decides_everything() -> None:
    assert searched(1).trials.rows == searched(1).trials.rows
    assert searched(1).trials.rows != searched(2).trials.rows


@pytest.mark.parametrize("cost", ["average_bits", "weight_mb"])
def test_the_front_covers_its_seeds_and_grows(cost: str) -> None:
    before, after = searched(3, generations=0, cost=cost), searched(3, generations=12, cost=cost)
    seeds = [before.point(one) for one in before.points.values()]
    front = [after.point(one) for one in after.front()]
    assert covers(front, seeds)
    assert hypervolume(front, (17.0, 0.0)) > hypervolume(seeds, (17.0, 0.0))
    one, other = before.chosen(), after.chosen()
    assert one is not None
    assert other is not None
    assert after.price(other.bitmap) < before.price(one.bitmap)


@pytest.mark.parametrize("cost", ["average_bits", "weight_mb"])
def test_a_single_width(cost: str) -> None:
    """Its cost is one sum, which rounds one way or another by the order it is taken in."""
    for layers in range(1, 40):
        space = make_space(layers, (3,), seed=layers)
        study = make_study(space, Threshold(space, 20, seed=4), 20, seed=0, cost=cost)
        run_methods(study, ("evolution",), None, None, Evolution(3, 4))
        assert study.front()


def test_most_offspring_see_few_questions() -> None:
    study = searched(5, generations=12)
    seen = [row["questions"] for row in study.trials.rows if row["method"] == "evolution"]
    assert len(seen) > 50
    assert sum(questions <= 12 for questions in seen) > 0.6 * len(seen)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [0.1, 0.3, 0.6])
def test_the_optimum_of_six_layers(seed: int, budget: float) -> None:
    space = make_space(6, (8, 4, 2), seed=seed)
    measure = Threshold(space, 60, seed=100 + seed)
    study = make_study(space, measure, 60, budget)
    run_methods(study, ("greedy", "ilp", "evolution"), measure.damage_LW, measure.damage_LW, Evolution())
    chosen = study.chosen()
    assert chosen is not None
    assert study.price(chosen.bitmap) == pytest.approx(smallest(study))


def smallest(study: Study) -> float:
    """The least cost of all assignments that keep the budget."""
    every = map(study.space.bitmap, itertools.product(study.space.choices, repeat=len(study.space.units)))
    return min(study.price(bitmap) for bitmap in every if study.objective.within(bitmap))
