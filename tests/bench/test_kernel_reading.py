"""The kernel that reads planes alone reads every word, once: on a GPU, or in Triton's interpreter."""

import os

import pytest
import torch

from switchq.inference.gpu.tiles import TiledWeight

pytest.importorskip("triton", reason="needs triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

CHANCE = 0x9E3779B9


@pytest.mark.parametrize("across", [2, 5])
def test_every_word_is_read(across: int) -> None:
    """Words are made such that what is odd in each thread is what the kernel looks for: then every thread writes; and a
    bit of any word that is turned keeps its thread from it."""
    from kernel_reading import reader

    from switchq.inference.gpu.products import Tile

    device = "cuda" if torch.cuda.is_available() else "cpu"
    down, warps, bits = 2, 2, 3
    depth = -(-across // warps)
    planes = torch.randint(-(2**31), 2**31, (bits, down, across, 32, 2)).int()
    chance = torch.tensor(CHANCE - 2**32, dtype=torch.int32)
    for tile in range(warps):
        odd = torch.zeros(32, dtype=torch.int32)
        for words in planes[:, :, tile::warps].permute(0, 1, 2, 4, 3).flatten(0, 3):
            odd ^= words
        planes[0, 0, tile, :, 0] ^= odd ^ chance
    weight = TiledWeight(
        tuple(planes.to(device)), torch.zeros(32 * warps, 1, 1, 1, dtype=torch.int32).to(device), (32, 128 * across)
    )
    read = reader(Tile(warps, depth, 1, down), pdl=False)
    read(weight)
    assert (weight.levels == chance.to(device)).all()
    for plane, row, tile, lane, word in ((0, 0, 0, 0, 0), (2, 1, across - 1, 31, 1), (1, 0, 1, 7, 1)):
        weight.planes[plane][row, tile, lane, word] ^= 4
        weight.levels.zero_()
        read(weight)
        silent = (weight.levels.flatten() == 0).nonzero().flatten().tolist()
        assert silent == [tile % warps * 32 + lane]
        weight.planes[plane][row, tile, lane, word] ^= 4
