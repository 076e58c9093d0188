"""4-bit codes, multiplied in bfloat16."""

import torch
from torch import Tensor

from switchq.inference.kernels.kernel import Kernel
from switchq.quant import Params

NIBBLE = 4
GROUPS = (256, 128, 64, 32)
"""Group sizes of the 4-bit operator."""


class Int4(Kernel):
    """PyTorch's 4-bit operator; a code of more bits is 2^(b-4) x its upper four + its lower ones, two products."""

    rounded_factors = True

    def __init__(self, codes_OI: Tensor, params: Params, bits: int) -> None:
        inputs = codes_OI.shape[1]
        self.size = next(size for size in GROUPS if self._fits(size, inputs, params))
        scale_OG, offset_OG = (
            params[name].repeat_interleave(inputs // self.size // params[name].shape[1], 1)
            for name in ("scale", "offset")
        )
        lower = max(bits - NIBBLE, 0)
        self.parts = [self._pack(codes_OI >> lower, scale_OG * 2**lower, offset_OG)]
        if lower:
            self.parts.append(self._pack((codes_OI & (2**lower - 1)) - 8, scale_OG, 8 * scale_OG))

    @classmethod
    def takes(cls, shape: tuple[int, int], params: Params) -> bool:
        """Rows in sixteens, groups of a size that the operator knows or that one of them divides."""
        return shape[0] % 16 == 0 and any(cls._fits(size, shape[1], params) for size in GROUPS)

    @staticmethod
    def _fits(size: int, inputs: int, params: Params) -> bool:
        return inputs % size == 0 and (inputs // params["scale"].shape[1]) % size == 0

    @staticmethod
    def _pack(signed_OI: Tensor, scale_OG: Tensor, offset_OG: Tensor) -> tuple[Tensor, Tensor]:
        """Codes from -8 to 7 in the operator's layout, and (G, O, 2) scales and offsets."""
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((signed_OI + 8).int(), 1)
        levels_GO2 = torch.stack([scale_OG.T, offset_OG.T], -1).contiguous().bfloat16()
        return packed, levels_GO2

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        half_NI = x_NI.bfloat16()
        first_NO, *rest = (
            torch.ops.aten._weight_int4pack_mm_for_cpu(half_NI, packed, self.size, levels_GO2)
            for packed, levels_GO2 in self.parts
        )
        y_NO = first_NO.float()
        for more_NO in rest:
            y_NO += more_NO
        return y_NO

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return sum(packed.nbytes + levels_GO2.nbytes for packed, levels_GO2 in self.parts)
