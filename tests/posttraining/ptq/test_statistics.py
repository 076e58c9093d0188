"""Statistics against their definitions, in one piece or in many, and after a change of scale."""

import pytest
import torch

from switchq.posttraining.ptq.statistics import Accumulator, Needs

from .conftest import ALL, inputs_of, statistics_of

X_NI = inputs_of(8, 50)

DEFINITIONS = {
    "mean": X_NI.mean(0),
    "mean_abs": X_NI.abs().mean(0),
    "mean_square": (X_NI**2).mean(0),
    "max_abs": X_NI.abs().max(0).values,
    "gram": sum(torch.outer(x_I, x_I) for x_I in X_NI) / 50,
}


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("pieces", [(50,), (1, 19, 30)], ids=str)
def test_definitions(name: str, pieces: tuple[int, ...]) -> None:
    gatherer = Accumulator(ALL, 50)
    for piece in X_NI.split(pieces):
        gatherer.add(piece)
    found = gatherer.result()
    torch.testing.assert_close(found[name], DEFINITIONS[name])
    assert found.tokens == 50


def test_samples_are_rows_of_the_input_drawn_by_the_seed() -> None:
    drawn = []
    for seed, pieces in ((0, (50,)), (0, (20, 30)), (1, (50,))):
        gatherer = Accumulator(Needs.of(samples=10), 50, seed)
        for piece in X_NI.split(pieces):
            gatherer.add(piece)
        drawn.append(gatherer.result()["samples"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    places = [(row == X_NI).all(1).nonzero().item() for row in drawn[0]]
    assert places == sorted(set(places))
    assert len(places) == 10


def test_no_more_samples_than_tokens() -> None:
    assert torch.equal(statistics_of(X_NI)["samples"], X_NI)
    assert len(statistics_of(X_NI).sampled(7)) == 7


def test_scaled_is_the_statistics_of_the_scaled_input() -> None:
    scale_I = torch.rand(8) + 0.5
    scaled, expected = statistics_of(X_NI).scaled(scale_I), statistics_of(X_NI / scale_I)
    assert scaled.values.keys() == expected.values.keys()
    for name, value in expected.values.items():
        torch.testing.assert_close(scaled[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_only_what_is_declared() -> None:
    found = statistics_of(X_NI, Needs.of("mean"))
    assert set(found.values) == {"mean"}
    with pytest.raises(KeyError, match="declare it"):
        found["gram"]
    with pytest.raises(ValueError, match="no statistic 'median'"):
        Needs.of("median")  # type: ignore[arg-type]
    assert not Needs()
    assert Needs.of("mean") | Needs.of("gram", samples=3) == Needs.of("mean", "gram", samples=3)
