"""Which kernel a weight gets."""

from torch import Tensor

from switchq.inference.kernels.int4 import NIBBLE, Int4
from switchq.inference.kernels.int8 import Int8
from switchq.inference.kernels.kernel import Kernel, Plain
from switchq.quant import Grid, Params

KERNELS = 3
"""Counts the changes that make old timings wrong."""


def choose(codes_OI: Tensor, params: Params, bits: int, grid: Grid, packed: bool = True) -> Kernel:
    """The kernel for a weight: `Int8` for more than 4 bits with one scale a row, else `Int4`, else `Plain`.

    Args:
        codes_OI: signed codes, int8.
        params: scales and offsets, (O, G) each.
        bits: the width of the codes.
        grid: what decodes them.
        packed: False takes `Plain` in any case.
    """
    if packed and bits > NIBBLE and Int8.takes(params):
        return Int8(codes_OI, params)
    if packed and Int4.takes((codes_OI.shape[0], codes_OI.shape[1]), params):
        return Int4(codes_OI, params, bits)
    return Plain(codes_OI, params, grid)
