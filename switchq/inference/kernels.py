"""Products of activations with packed weights on a CPU, in PyTorch's own operators.

| kernel | holds | multiplies |
|---|---|---|
| `Plain` | int8 codes | float32, decoded in every call: the numbers of training, by which the others are tested |
| `Int8` | int8 codes, one scale a row | in integers (FBGEMM); an activation is two 8-bit numbers, 15 bits together |
| `Int4` | four bits a weight, or two times four | activations, levels and results in bfloat16, sums in float32 |

Every kernel gives x W^T without the bias. `Int8` leaves out the offset, too: it is constant along a row, so the caller
adds offset x sum(x) where it adds its low-rank product, which costs one more column there.
"""

import warnings
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.inference.low_rank import Factors
from switchq.quant import Grid, Params

NIBBLE = 4
GROUPS = (256, 128, 64, 32)
"""Group sizes of the 4-bit operator."""


class Kernel(ABC):
    """A weight (O, I) at one width, ready to be multiplied.

    Attributes:
        offset_O: what is left to add to every weight of a row, or None.
        rows: whether `layer` wants the second factor in rows of outputs.
        rounds: whether activations and results are bfloat16, so that rounded factors do for an adapter.
    """

    offset_O: Tensor | None = None
    rows = False
    rounds = False

    @abstractmethod
    def product(self, x_NI: Tensor) -> Tensor:
        """(N, I) float32 -> (N, O) float32."""

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low: Factors | None) -> Tensor:
        """The product, + bias + the factors' product where there is any."""
        y_NO = self.product(x_NI)
        if bias_O is not None:
            y_NO += bias_O
        return y_NO if low is None else low.added(y_NO, x_NI)

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
    """FBGEMM's integer product of codes and activations.

    A token's activations are scaled to -127 ... 127 and split in the nearest integers and what is left, in 1/254, which
    are two rows of one product: the codes are read once for both. Activations of 8 bits alone are not enough for models
    with outliers, like GPT-2. A token's result does not depend on the tokens beside it.
    """

    def __init__(self, codes_OI: Tensor, params: Params) -> None:
        self.packed = _packed(codes_OI, params["scale"].squeeze(-1))
        self.offset_O = params["offset"].squeeze(-1)
        self.held = codes_OI.nbytes + _ROW_BYTES * len(codes_OI)

    @staticmethod
    def takes(params: Params) -> bool:
        """One scale a row, where 8-bit products are exact."""
        return params["scale"].shape[1] == 1 and exact_products()

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        most_N1, parts_2NO = self._parts(x_NI)
        high_NO, low_NO = parts_2NO.view(2, len(x_NI), -1)
        return high_NO.add_(low_NO, alpha=0.5 / _LARGEST).mul_(most_N1 / _LARGEST)

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low: Factors | None) -> Tensor:
        """See `Kernel.layer`; of one token, both parts and the bias are added in one product."""
        if len(x_NI) > 1 or low is None:
            return super().layer(x_NI, bias_O, low)
        most_11, parts_2O = self._parts(x_NI)
        shares_12 = most_11 * _SHARES_2
        y_1O = torch.mm(shares_12, parts_2O) if bias_O is None else torch.addmm(bias_O, shares_12, parts_2O)
        return low.added(y_1O, x_NI)

    def _parts(self, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """The largest activation of each token, (N, 1), and the products of both parts, (2 N, O), in its units."""
        most_N1 = x_NI.abs().amax(-1, keepdim=True).clamp_min_(_TINY)
        rows_2NI = _STEPS_211 / most_N1 * x_NI
        high_NI, low_NI = rows_2NI
        low_NI.sub_(high_NI.round_(), alpha=2 * _LARGEST)  # FBGEMM rounds, too, but not always to the same side
        return most_N1, _product(rows_2NI.view(-1, x_NI.shape[1]), self.packed)

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return self.held


def _packed(codes_OI: Tensor, scale_O: Tensor) -> Any:
    """int8 codes in FBGEMM's layout."""
    with warnings.catch_warnings():  # the type of tensor that the packing takes is to go some day
        warnings.simplefilter("ignore", UserWarning)
        zeros_O = torch.zeros(len(scale_O), dtype=torch.long)
        quantised = torch._make_per_channel_quantized_tensor(codes_OI, scale_O.double(), zeros_O, 0)
        return torch.ops.quantized.linear_prepack(quantised, None)


def _product(rows_NI: Tensor, packed: Any) -> Tensor:
    """Activations in -127 ... 127, rounded to integers, times scaled codes: (N, O) float32."""
    product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows_NI, 1.0, 128, packed)
    return product


@cache
def exact_products() -> bool:
    """Whether PyTorch has FBGEMM's product here, and sums that do not saturate: those of a processor with VNNI."""
    try:
        packed = _packed(torch.full((16, 64), _LARGEST, dtype=torch.int8), torch.ones(16))
        product = _product(torch.full((1, 64), float(_LARGEST)), packed)
    except (AttributeError, RuntimeError):  # NotImplementedError is one of these
        return False
    return bool((product == 64 * _LARGEST**2).all())


class Int4(Kernel):
    """PyTorch's 4-bit operator; a code of more bits is 2^(b-4) x its upper four + its lower ones, two products."""

    rounds = True

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


KERNELS = 3
"""Counts the changes that make old timings wrong."""

_LARGEST = 127
_TINY = 1e-30
_STEPS_211 = torch.tensor([_LARGEST, 2.0 * _LARGEST**2]).view(2, 1, 1)  # of both parts, in the largest activation
_SHARES_2 = 1 / _STEPS_211.flatten()
_ROW_BYTES = 4 + 4 + 4  # a row's scale, zero point and sum of codes
