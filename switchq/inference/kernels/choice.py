"""Which kernel a weight gets."""

from torch import Tensor

from switchq.inference.kernels.integer import Integer, integer_products
from switchq.inference.kernels.kernel import Kernel, Plain
from switchq.quant import Grid, Params

KERNELS = 6
"""Counts the changes that make old timings wrong."""


def choose(codes_OI: Tensor, params: Params, bits: int, grid: Grid, packed: bool = True) -> Kernel:
    """The kernel for a weight: `Integer` where machine code can be made, else `Plain`.

    Args:
        codes_OI: signed codes, int8.
        params: scales and offsets, (O, G) each.
        bits: the width of the codes.
        grid: what decodes them.
        packed: False takes `Plain` in any case.
    """
    return Integer(codes_OI, params, bits) if packed and integer_products() else Plain(codes_OI, params, grid)
