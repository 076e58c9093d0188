"""Ranges chosen by output error, against trying each on the inputs themselves."""

import pytest
import torch

from switchq.errors import UserError
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.rounders.range_search import RangeSearch
from switchq.quant import Asymmetric, Grid, Symmetric

from .conftest import inputs_of, statistics_of, weight_of

X_NI = inputs_of(32)

WEIGHT_OI = weight_of(6, 32)


@pytest.mark.parametrize("grid", [Symmetric(), Symmetric(8), Asymmetric(), Asymmetric(8)], ids=str)
@pytest.mark.parametrize("bits", [2, 4])
def test_against_every_range_on_the_inputs(grid: Grid, bits: int) -> None:
    groups = grid.groups(32)
    x_NGS = X_NI.double().reshape(len(X_NI), groups, -1)
    weight_OGS = WEIGHT_OI.reshape(6, groups, -1)
    errors = []
    for step in range(10):
        params = grid.range_params(weight_OGS, bits, 1 - 0.05 * step)
        off_OGS = grid.decode_groups(grid.encode_groups(weight_OGS, params, bits), params) - weight_OGS
        errors.append(torch.einsum("ngs,ogs->nog", x_NGS, off_OGS.double()).square().mean(0))
    rounded_OI = RangeSearch().round(WEIGHT_OI, grid, bits, statistics_of(X_NI)).weight()
    off_OGS = (rounded_OI - WEIGHT_OI).reshape(6, groups, -1)
    found_OG = torch.einsum("ngs,ogs->nog", x_NGS, off_OGS.double()).square().mean(0)
    torch.testing.assert_close(found_OG, torch.stack(errors).amin(0), rtol=1e-3, atol=1e-8)


def test_one_point_is_plain_rounding() -> None:
    statistics = statistics_of(X_NI)
    one, nearest = (r.round(WEIGHT_OI, Asymmetric(8), 3, statistics).codes_OI for r in (RangeSearch(1), Nearest()))
    assert torch.equal(one, nearest)
    with pytest.raises(UserError, match="not a range"):
        RangeSearch(points=0)
