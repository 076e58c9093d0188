"""The tiles that the benchmark of GPU products tries."""

import pytest
import torch

from switchq.inference.gpu.tiles import ROWS, TiledWeight

pytest.importorskip("triton", reason="needs triton")


def test_tiles_that_are_tried_fit() -> None:
    """Each is one that a product takes, none is its own, and as many programs as it says find registers."""
    from kernel_variants import tiles

    from switchq.inference.gpu.products import REGISTERS, Tile, _check, registers, vector_tile

    tried = list(tiles())
    assert len(tried) == len(set(tried))
    assert {case.bits for case in tried} == {2, 3, 4, 8}
    assert {case.tile.early for case in tried} == {0, 2, 4, 6, 8}
    for case in tried:
        assert isinstance(case.tile, Tile)
        levels = torch.empty(case.size[0] // ROWS, 1, 8, 2, device="meta")
        weight = TiledWeight((torch.empty(0),) * case.bits, levels, case.size)
        _check(case.tile, weight, torch.float16, 1)
        assert case.tile != vector_tile(*case.size, case.bits)
        most = registers(case.tile)
        assert most is None or 32 * case.tile.warps * case.tile.programs * most <= REGISTERS
