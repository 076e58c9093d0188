"""The choices and their costs."""

import numpy as np
import pytest
from workshop import Workshop

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.evaluation import weight_bytes
from switchq.models import make_switchable
from switchq.nn import switch_layers
from switchq.posttraining.search import search_space
from switchq.posttraining.search.scores import pick_score, unit_scores
from switchq.posttraining.sensitivity import Sensitivity
from switchq.quant import Asymmetric


@pytest.mark.parametrize("kind", ["adapters", "groups and extras"])
def test_sizes_are_those_of_weight_bytes(kind: str, workshop: Workshop, tiny_llama) -> None:  # type: ignore[no-untyped-def]
    if kind == "adapters":
        model = workshop.module().model
    else:
        model = make_switchable(tiny_llama(), (8, 3), Asymmetric(group_size=16), adapters=False, extra=["head"])
    space = search_space(model, (8, 3, 2))
    sizes = [layer.linear.weight.numel() for layer in switch_layers(model)]
    rng = np.random.default_rng(0)
    for _ in range(30):
        bitmap = Bitmap(rng.choice([16, 8, 3, 2], size=len(space.names)).tolist())
        assert space.weight_mb(bitmap) == pytest.approx(weight_bytes(model, bitmap).total / 1e6, rel=1e-12)
        assert space.average_bits(bitmap) == pytest.approx(bitmap.average_bits(sizes), rel=1e-12)
        assert f"{space.average_bits(bitmap):.2f}" == f"{bitmap.average_bits(sizes):.2f}"
        assert space.weight_mb(bitmap) >= space.smallest("weight_mb") - 1e-12
    assert space.smallest("average_bits") == pytest.approx(2)


def test_units_of_blocks(workshop: Workshop) -> None:
    space = search_space(workshop.module().model, (8, 2), "block")
    assert space.units == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert space.bitmap((8, 2)) == Bitmap([8] * 4 + [2] * 4)
    assert space.genome(space.bitmap((16, 2))) == (16, 2)
    assert space.genome(Bitmap([8, 2] * 4)) is None
    assert space.genome(Bitmap([4] * 8)) is None
    assert space.unit_costs("average_bits").sum(0) == pytest.approx([16, 8, 2])


@pytest.mark.parametrize("widths", [(16,), (), (8, 8)])
def test_widths_that_leave_no_choice(widths: tuple[int, ...], workshop: Workshop) -> None:
    with pytest.raises(UserError, match="each width once"):
        search_space(workshop.module().model, widths)


def sensitivity(**scores: tuple[float, ...]) -> Sensitivity:
    count = len(next(iter(scores.values())))
    names = tuple(f"h.{i}" for i in range(count))
    return Sensitivity(names, (1,) * count, (8, 2), {name: {8: row, 2: row} for name, row in scores.items()})


def test_scores_are_summed_over_units_and_errors_of_outputs_weighed(workshop: Workshop) -> None:
    space = search_space(workshop.module().model, (8, 2), "block")
    found = sensitivity(mse=(1.0,) * 8, kl=(1, 2, 3, 4, 5, 6, 7, float("inf")))
    assert pick_score(found, None) == "kl"
    assert pick_score(found, "mse") == "mse"
    assert unit_scores(space, found, "mse", additive=False).tolist() == [[0, 4, 4], [0, 4, 4]]
    assert unit_scores(space, found, "mse", additive=True)[0].tolist() == [0, 288, 288]  # 96 + 32 + 128 + 32 outputs
    kl = unit_scores(space, found, "kl", additive=True)
    assert kl[0].tolist() == [0, 10, 10]
    assert kl[1, 1] == pytest.approx(18 + 10 * 2 * 28)


def test_scores_that_are_not_there(workshop: Workshop) -> None:
    space = search_space(workshop.module().model, (8, 2))
    with pytest.raises(UserError, match="no score 'kl'; they hold mse"):
        pick_score(sensitivity(mse=(1.0,) * 8), "kl")
    with pytest.raises(UserError, match="no finite mse"):
        unit_scores(space, sensitivity(mse=(float("inf"),) * 8), "mse", additive=False)
