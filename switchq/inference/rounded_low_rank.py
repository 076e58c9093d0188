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

    def __init__(self, low_RI: Tensor, high_RO: Tensor) -> None:
        self.low, self.high = _rounded(low_RI), _rounded(high_RO.T)

    def added(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        """See `Factors.added`."""
        inner_NR = self.low.product(x_NI)
        return self.high.layer(inner_NR, y_NO[0], None) if len(y_NO) == 1 else y_NO + self.high.product(inner_NR)

    @property
    def resident_bytes(self) -> int:
        """See `Factors.resident_bytes`."""
        return self.low.resident_bytes + self.high.resident_bytes


def _rounded(factor_OI: Tensor) -> Integer:
    """Codes in -127 ... 127 and a scale a row, at least the largest number's 127th."""
    scale_O1 = (factor_OI.abs().amax(1, keepdim=True) / 127 * (1 + 2**-11)).clamp_min(2**-24).half().float()
    codes_OI = (factor_OI / scale_O1).round().clamp(-127, 127).to(torch.int8)
    return Integer(codes_OI, {"scale": scale_O1, "offset": torch.zeros_like(scale_O1)}, 8)
