"""Products of activations with packed weights on a CPU, in PyTorch's own operators.

| kernel | holds | multiplies |
|---|---|---|
| `Plain` | int8 codes | float32, decoded in every call: the numbers of training, by which the others are tested |
| `Int8` | int8 codes, one scale a row | in integers; an activation is two 8-bit numbers, 15 bits together |
| `Int4` | four bits a weight, or two times four | activations, levels and results in bfloat16, sums in float32 |

Every kernel gives x W^T without the bias. `Int8` leaves out the offset, too: it is constant along a row, so the caller
adds offset x sum(x) where it adds its low-rank product, which costs one more column there.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.quant import Grid, Params

NIBBLE = 4
GROUPS = (256, 128, 64, 32)
"""Group sizes of the 4-bit operator."""


class Kernel(ABC):
    """A weight (O, I) at one width, ready to be multiplied.

    Attributes:
        offset_O: what is left to add to every weight of a row, or None.
        rows: whether `layer` wants the second factor in rows of outputs.
    """

    offset_O: Tensor | None = None
    rows = False

    @abstractmethod
    def product(self, x_NI: Tensor) -> Tensor:
        """(N, I) float32 -> (N, O) float32."""

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low_RI: Tensor | None, high_RO: Tensor | None) -> Tensor:
        """The product, + bias + x low^T high where there is any."""
        y_NO = self.product(x_NI)
        if bias_O is not None:
            y_NO += bias_O
        return y_NO if low_RI is None else torch.addmm(y_NO, F.linear(x_NI, low_RI), high_RO)  # type: ignore[arg-type]

    @property
    @abstractmethod
    def resident_bytes(self) -> int:
        """Bytes that it holds in memory."""


class Plain(Kernel):
    """Decode with the training grid, then multiply in float32."""

    def __init__(self, codes_OI: Tensor, params: Params, grid: Grid) -> None:
        self.codes_OI, self.params, self.grid = codes_OI, params, grid

    def weight(self) -> Tensor:
        """The weight (O, I), float32."""
        return self.grid.decode(self.codes_OI, self.params)

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        return F.linear(x_NI, self.weight())

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return self.codes_OI.nbytes


class Int8(Kernel):
    """Integer products of codes and activations.

    A token's activations are scaled to -127 ... 127 and split in the nearest integers and what is left, in 1/254, which
    are multiplied each on its own. Activations of 8 bits alone are not enough for models with outliers, like GPT-2. A
    token's result does not depend on the tokens beside it.
    """

    def __init__(self, codes_OI: Tensor, params: Params) -> None:
        self.codes_OI = codes_OI
        self.scale_O = params["scale"].squeeze(-1)
        self.offset_O = params["offset"].squeeze(-1)

    @staticmethod
    def takes(params: Params) -> bool:
        """One scale a row, on a processor whose 8-bit products do not saturate."""
        return params["scale"].shape[1] == 1 and torch.cpu._is_vnni_supported()

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        unit_N1 = torch.linalg.vector_norm(x_NI, float("inf"), -1, keepdim=True).div_(_LARGEST).clamp_(min=_TINY)
        x_NI = x_NI / unit_N1
        high_NI = x_NI.round()
        low_NI = x_NI.sub_(high_NI).mul_(2 * _LARGEST).round_()
        if len(x_NI) == 1 and self.codes_OI.nbytes <= _CACHED:  # one row at a time is PyTorch's fastest
            high_NO, low_NO = (torch._int_mm(part.to(torch.int8), self.codes_OI.T) for part in (high_NI, low_NI))
        else:
            rows = torch.cat([high_NI, low_NI]).to(torch.int8)
            high_NO, low_NO = torch._int_mm(rows, self.codes_OI.T).chunk(2)
        return high_NO.float().add_(low_NO, alpha=0.5 / _LARGEST).mul_(self.scale_O).mul_(unit_N1)

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return self.codes_OI.nbytes + self.scale_O.nbytes


class Int4(Kernel):
    """PyTorch's 4-bit operator; a code of more bits is 2^(b-4) x its upper four + its lower ones, two products."""

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


KERNELS = 2
"""Counts the changes that make old timings wrong."""

_LARGEST = 127
_CACHED = 4 << 20  # bytes of codes that stay in a cache from one product to the next
_TINY = 1e-30
