"""A kernel that reads bit-planes and does nothing with them: what a product could take at best in a launch of its own.

The speed of a long copy says too little of a small layer: 2 MB are over before a launch is. Here the same words are
read by the same programs, warps and loads as in the product for one token, in the same chain of launches.
"""

from collections.abc import Callable

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from switchq.inference.gpu.decoding import load_words
from switchq.inference.gpu.products import Tile
from switchq.inference.gpu.tiles import COLUMNS, ROWS, TiledWeight

CHANCE = tl.constexpr(0x9E3779B9)
"""One word in four billion: nothing is written, and the compiler cannot know."""


@triton.jit
def _read(planes, out_ptr, TILES: tl.constexpr, DOWN: tl.constexpr, WARPS: tl.constexpr, DEPTH: tl.constexpr,
          PDL: tl.constexpr):  # fmt: skip
    """Read all words of DOWN tiles of rows; a thread writes what is odd in its own, if that is `CHANCE`."""
    thread = tl.arange(0, 32 * WARPS)
    warp, lane = thread // 32, thread % 32
    if PDL:
        gdc_launch_dependents()
    at = (DOWN * tl.program_id(0) * TILES + warp) * 64 + lane * 2
    all_bits = tl.zeros((32 * WARPS,), tl.uint32)
    for first in range(0, TILES, WARPS * DEPTH):
        for d in tl.static_range(DEPTH):
            tile = first + d * WARPS + warp
            words = load_words(planes, at + (first + d * WARPS) * 64, tile < TILES, DOWN, TILES * 64, True)
            for row in tl.static_range(2 * DOWN):
                for k in tl.static_range(len(planes)):
                    all_bits ^= words[row][k]
    if PDL:
        gdc_wait()
    tl.store(out_ptr + thread, all_bits.to(tl.int32, bitcast=True), mask=all_bits == CHANCE)


def reader(tile: Tile, pdl: bool = True) -> Callable[[TiledWeight], None]:
    """What reads a weight as the product of that tile does."""

    def read(weight: TiledWeight) -> None:
        outputs, inputs = weight.shape
        _read[(triton.cdiv(outputs, ROWS * tile.down),)](
            weight.planes, weight.levels, TILES=triton.cdiv(inputs, COLUMNS), DOWN=tile.down, WARPS=tile.warps,
            DEPTH=tile.depth, num_warps=tile.warps, PDL=pdl, **({"launch_pdl": True} if pdl else {}),
        )  # fmt: skip

    return read
