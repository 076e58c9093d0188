"""Powers of two and sums of them: the published level sets, and rounding by trying every level."""

from itertools import product

import pytest
import torch

from switchq.bitmap import WIDTHS
from switchq.errors import UserError
from switchq.quant import Apot, Grid, Pot, Symmetric

PUBLISHED = {
    2: [[1]],
    3: [[1, 2, 3]],
    4: [[1, 2, 4], [3]],
    5: [[1, 3, 5], [2, 4, 6]],
    6: [[1, 3, 6], [2, 4, 7], [5]],
    7: [[1, 4, 7], [2, 5, 8], [3, 6, 9]],
}
"""By width (sign included): the negative exponents of each term, as the paper's authors list them for k = 2."""


@pytest.mark.parametrize("bits", PUBLISHED)
def test_apot_has_the_published_levels(bits: int) -> None:
    terms = [[0.0] + [2.0**-exponent for exponent in term] for term in PUBLISHED[bits]]
    sums = sorted(sum(picked) for picked in product(*terms))
    assert Apot().magnitudes(bits) == pytest.approx([value / max(sums) for value in sums], rel=1e-15)


@pytest.mark.parametrize(("bits", "k"), [(5, 2), (7, 2), (7, 3), (5, 4), (4, 3), (5, 1)])
def test_apot_is_equation_five_of_the_paper(bits: int, k: int) -> None:
    """Where k divides the bits besides the sign: p_i in {0, 2^-i, 2^-(i+n), ..., 2^-(i + (2^k - 2) n)}."""
    n = (bits - 1) // k
    terms = [[0.0] + [2.0 ** -(i + step * n) for step in range(2**k - 1)] for i in range(n)]
    sums = sorted(sum(picked) for picked in product(*terms))
    assert Apot(k=k).magnitudes(bits) == pytest.approx([value / max(sums) for value in sums], rel=1e-15)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", WIDTHS)
def test_no_two_sums_are_equal(bits: int, k: int) -> None:
    levels = Apot(k=k).magnitudes(bits)
    assert len(set(levels)) == 2 ** (bits - 1)
    assert (levels[0], levels[-1]) == (0, 1)


def test_one_bit_a_term_is_the_even_grid() -> None:
    weight_OI = torch.randn(8, 64)
    apot, even = (grid.fake_quantize(weight_OI, grid.fit(weight_OI, 4), 4) for grid in (Apot(k=1), Symmetric()))
    torch.testing.assert_close(apot, even, rtol=1e-3, atol=0)


def test_pot_by_hand() -> None:
    assert Pot().magnitudes(2) == (0, 1)
    assert Pot().magnitudes(3) == (0, 0.25, 0.5, 1)
    assert Pot().magnitudes(4) == (0, 2**-6, 2**-5, 2**-4, 2**-3, 0.25, 0.5, 1)
    assert Pot().magnitudes(8)[1] == 2**-30


@pytest.mark.parametrize("grid", [Pot(16), Apot(16), Pot(16, "mse"), Apot(None, "mse", 3)], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_rounds_to_the_nearest_of_all_levels(grid: Grid, bits: int) -> None:
    weight_OI = torch.randn(5, 32) ** 3
    params = grid.fit(weight_OI, bits)
    actual_OI = grid.fake_quantize(weight_OI, params, bits)
    assert isinstance(grid, Pot | Apot)
    size = 32 // grid.groups(32)
    for row, column in product(range(5), range(32)):
        scale = float(params["scale"][row, column // size])
        levels = [sign * scale * level for level in grid.magnitudes(bits) for sign in (-1, 1)]
        nearest = min(abs(level - float(weight_OI[row, column])) for level in levels)
        assert abs(float(actual_OI[row, column] - weight_OI[row, column])) == pytest.approx(nearest, abs=1e-6)


def test_a_larger_code_is_a_larger_weight() -> None:
    for grid in (Pot(), Apot()):
        params = grid.fit(torch.ones(1, 1), 4)
        values = grid.decode(torch.arange(-8, 9, dtype=torch.int16)[None], params | {})
        assert (values.diff()[0, 1:-1] > 0).all()
        assert values[0, 0] == values[0, 1] == -1


def test_mistakes() -> None:
    with pytest.raises(UserError, match="1 to 4 bits, not 5"):
        Apot(k=5)
