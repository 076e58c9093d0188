"""What all functions of a product know: the weight, by addresses and numbers, and the room of a token.

A token's room holds its rounded activations in the order of the codes (`switchq.inference.kernels.packing`), for narrow
codes the high halves of the groups that lie side by side and then their low halves; then every group's sum, then d.
"""

from typing import NamedTuple

from switchq.inference.kernels.machine.text import Function
from switchq.inference.kernels.packing import Layout

TOGETHER = 4
"""Tokens that meet codes which were taken apart once."""


class Weight(NamedTuple):
    """What a product is told, in numbers of 64 bits, and what a function calls it by.

    Attributes:
        codes: address of the packed codes.
        scales: address of the scales, float16.
        offsets: address of the offsets, float16.
        outputs: O.
        inputs: I.
        groups: of a row.
        laid: groups with those that fill up.
        size: columns of a group.
        blocks: of a group.
        lowest: what was added to the codes.
        row: bytes of a row of codes.
        stride: bytes of a token's room.
    """

    codes: str
    scales: str
    offsets: str
    outputs: str
    inputs: str
    groups: str
    laid: str
    size: str
    blocks: str
    lowest: str
    row: str
    stride: str

    @classmethod
    def read(cls, f: Function, base: str = "%weight") -> "Weight":
        """What lies at an address."""
        pointers = ("codes", "scales", "offsets")
        kinds = ("ptr" if name in pointers else "i64" for name in cls._fields)
        return cls(*(f.load(kind, base, index, "i64") for index, kind in enumerate(kinds)))


def largest(layout: Layout) -> float:
    """L."""
    return 32767.0 if layout.field == 8 else 32639.0


def room_bytes(layout: Layout, groups: int, size: int) -> int:
    """Bytes of a token's room, in whole cache lines."""
    laid = layout.laid(groups)
    return -(-(2 * laid * layout.blocks(size) * layout.block + 4 * laid + 4) // 64) * 64


def behind(f: Function, layout: Layout, weight: Weight) -> str:
    """Where the sums of groups lie in a token's room, and then d, in floats from its start: behind the activations."""
    return f(f"udiv i64 {f.times(f.times(weight.laid, weight.blocks), 2 * layout.block)}, 4")
