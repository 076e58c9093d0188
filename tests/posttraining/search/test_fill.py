"""Points along a path, chosen by what the questions promise."""

from collections.abc import Sequence

import numpy as np
import pytest

from switchq.bitmap import Bitmap
from switchq.posttraining.search import Measurement, Study
from switchq.posttraining.search.fill import fill_in, predicted
from switchq.posttraining.search.front import hypervolume
from switchq.posttraining.search.report import reference_point

from .conftest import Array, make_space, make_study

QUESTIONS = 100


def test_predictions_lie_on_the_line_between_what_was_asked() -> None:
    nan = np.nan
    values_SQ = np.array([[1.0, 1.0], [nan, 1.0], [nan, nan], [nan, nan], [0.0, 1.0]])
    means_SQ, variances_SQ = predicted(values_SQ)
    np.testing.assert_allclose(means_SQ, [[1, 1], [0.75, 1], [0.5, 1], [0.25, 1], [0, 1]])
    assert (variances_SQ[~np.isnan(values_SQ)] == 0).all()
    assert (variances_SQ[1:4, 0] > variances_SQ[1:4, 1]).all()
    assert (variances_SQ[2:4, 1] > 0).all()  # the other question changes, so this one may have


def test_nothing_is_uncertain_where_nothing_changes() -> None:
    values_SQ = np.full((4, 3), np.nan)
    values_SQ[[0, -1]] = 1.0
    means_SQ, variances_SQ = predicted(values_SQ)
    assert (means_SQ == 1).all()
    assert (variances_SQ == 0).all()


def walk(seed: int) -> tuple[Study, list[Bitmap]]:
    """A path of 40 steps, along which some questions change often, most hardly ever, and more answers get wrong."""
    space, rng = make_space(40, (4,)), np.random.default_rng(seed)
    path = [Bitmap([4] * narrow + [16] * (40 - narrow)) for narrow in range(41)]
    right_SQ = np.zeros((41, QUESTIONS))
    right_SQ[0] = rng.uniform(size=QUESTIONS) < 0.9
    readiness_Q = rng.exponential(size=QUESTIONS) ** 2 / 2
    for step in range(1, 41):
        flips = rng.uniform(size=QUESTIONS) < readiness_Q * np.where(right_SQ[step - 1] == 1, 0.06, 0.03)
        right_SQ[step] = np.abs(right_SQ[step - 1] - flips)
    known = dict(zip(path, right_SQ))

    def measure(bitmap: Bitmap, rows: Sequence[int]) -> Measurement:
        values: Array = known[bitmap][list(rows)]
        return Measurement({"F1": values.tolist(), "EM": values.tolist()}, [1.0] * len(rows), 1, 0.5)

    study = make_study(space, measure, QUESTIONS)
    for end in (path[0], path[-1]):
        study.score(end)
    return study, path


def volume(study: Study) -> float:
    return hypervolume([study.point(one) for one in study.points.values()], reference_point(study))


def test_the_allowance_is_kept_and_spent() -> None:
    study, path = walk(0)
    before, ends = study.objective.evaluated["references"], volume(study)
    fill_in(study, path, 5 * QUESTIONS)
    assert 4 * QUESTIONS < study.objective.evaluated["references"] - before <= 5 * QUESTIONS
    assert len(study.points) >= 5
    assert volume(study) > ends


def test_with_enough_allowance_the_whole_front_is_found() -> None:
    chosen, path = walk(0)
    fill_in(chosen, path, 1_000_000, negligible=0.0)
    everything, _ = walk(0)
    for bitmap in path:
        everything.score(bitmap)
    assert volume(chosen) == pytest.approx(volume(everything), rel=0.01)


def test_too_little_for_any_point_is_not_spent() -> None:
    study, path = walk(1)
    before = study.objective.evaluated["references"]
    fill_in(study, path, QUESTIONS - 1)
    assert study.objective.evaluated["references"] == before
