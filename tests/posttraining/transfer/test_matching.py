"""Which layer takes after which."""

import pytest

from switchq.models.architecture import ROLES
from switchq.posttraining.transfer.matching import depth, match, unmatched

from .conftest import entry_of, model_of


@pytest.mark.parametrize(
    ("source", "target", "blocks"),
    [
        (4, 6, [0, 1, 1, 2, 2, 3]),
        (6, 4, [0, 2, 3, 5]),
        (3, 3, [0, 1, 2]),
        (2, 5, [0, 0, 0, 1, 1]),
        (1, 4, [0, 0, 0, 0]),
        (5, 1, [0]),
        (12, 24, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11]),
    ],
)
def test_the_nearest_relative_depth_and_never_the_first_of_the_name(
    source: int, target: int, blocks: list[int]
) -> None:
    found = match(entry_of(source, 8), model_of(target, 8))
    for role in ROLES:
        of_role = [one for one in found if one.target.place.role == role]
        assert [one.source.place.block for one in of_role if one.source is not None] == blocks
        assert all(one.source is not None and one.source.place.role == role for one in of_role)
    for one in found:  # against a search over all
        nearest = min(abs(depth(block, source) - one.depth) for block in range(source))
        assert one.source_depth is not None
        assert abs(one.source_depth - one.depth) == pytest.approx(nearest)


def test_what_the_source_lacks_is_unmatched() -> None:
    found = match(entry_of(3, 8, ROLES[:3]), model_of(2, 8))
    assert unmatched(found) == ["h.0.MLP_output", "h.1.MLP_output"]
    assert [one.source for one in found if one.target.place.role == ROLES[3]] == [None, None]


def test_a_component_that_one_block_left_out_is_taken_from_the_nearest_that_has_it() -> None:
    source = entry_of(3, 8)
    object.__setattr__(source, "sites", tuple(one for one in source.sites if one.place != source.sites[4].place))
    found = [one for one in match(source, model_of(3, 8)) if one.target.place.role == ROLES[0]]
    assert [one.source.place.block for one in found if one.source is not None] == [0, 0, 2]


def test_pairs_have_the_same_name_where_there_is_one() -> None:
    (first, *_) = match(entry_of(1, 8), model_of(1, 8))
    assert first.pairs == [("h.0.attention_input", "h.0.attention_input")]
