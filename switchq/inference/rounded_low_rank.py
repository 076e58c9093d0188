"""An adapter of 8 bits a number, a scale for each row of A and of B.

Both products are those of a packed weight (`switchq.inference.kernels`): a quarter of the bytes of floats, which is
what such a product costs on one token.
"""

import torch
from torch import Tensor

from switchq.inference.kernels import Integer
from switchq.inference.low_rank import Factors


class RoundedLowRank(Factors):
    """Factors of 8 bits a number; arguments as for `LowRank`."""

    products: tuple[Integer, Integer]

    def __init__(self, low_RI: Tensor, high_RO: Tensor) -> None:
        self.products = _rounded(low_RI), _rounded(high_RO.T)

    def added(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        """See `Factors.added`; for one token the packed weight beside it does all in one call."""
        low, high = self.products
        return y_NO + high.product(low.product(x_NI))

    @property
    def resident_bytes(self) -> int:
        """See `Factors.resident_bytes`."""
        return sum(one.resident_bytes for one in self.products)


def _rounded(factor_OI: Tensor) -> Integer:
    """Codes in -127 ... 127 and a scale a row, at least the largest number's 127th."""
    scale_O1 = (factor_OI.abs().amax(1, keepdim=True) / 127 * (1 + 2**-11)).clamp_min(2**-24).half().float()
    codes_OI = (factor_OI / scale_O1).round().clamp(-127, 127).to(torch.int8)
    return Integer(codes_OI, {"scale": scale_O1, "offset": torch.zeros_like(scale_O1)}, 8)
