"""Which kernel a weight gets."""

from typing import Literal, get_args

from torch import Tensor

from switchq.errors import UserError
from switchq.inference.kernels.bags import Bags
from switchq.inference.kernels.int4 import NIBBLE, Int4
from switchq.inference.kernels.int8 import Int8
from switchq.inference.kernels.kernel import Kernel, Plain
from switchq.quant import Grid, Params

Prefer = Literal["speed", "memory"]
"""What a model is packed for, where there is a choice."""

KERNELS = 4
"""Counts the changes that make old timings wrong."""


def choose(
    codes_OI: Tensor, params: Params, bits: int, grid: Grid, packed: bool = True, prefer: Prefer = "speed"
) -> Kernel:
    """The kernel for a weight: `Int8` for more than 4 bits with one scale a row, else `Int4`, else `Plain`.

    For memory's sake 2 bits take `Bags`, and so does what else `Int4` does not take, up to 4 bits.

    Args:
        codes_OI: signed codes, int8.
        params: scales and offsets, (O, G) each.
        bits: the width of the codes.
        grid: what decodes them.
        packed: False takes `Plain` in any case.
        prefer: `speed`, or `memory`.
    """
    small = packed and prefer == "memory" and Bags.takes(bits)
    if small and bits == 2:
        return Bags(codes_OI, params, bits)
    if packed and bits > NIBBLE and Int8.takes(params):
        return Int8(codes_OI, params)
    if packed and Int4.takes((codes_OI.shape[0], codes_OI.shape[1]), params):
        return Int4(codes_OI, params, bits)
    return Bags(codes_OI, params, bits) if small else Plain(codes_OI, params, grid)


def check_preference(prefer: str) -> None:
    """Make sure that `prefer` is one of those that there are.

    Raises:
        UserError: it is not.
    """
    if prefer not in get_args(Prefer):
        raise UserError(f"prefer is {' or '.join(get_args(Prefer))}, not {prefer!r}")
