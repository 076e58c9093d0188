"""8-bit codes, multiplied in integers."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from switchq.inference.kernels.kernel import Kernel
from switchq.inference.kernels.trial import trial
from switchq.inference.low_rank import Factors
from switchq.quant import Params


class Int8(Kernel):
    """FBGEMM's integer product of codes and activations.

    A token's activations are scaled to -L ... L and split in the nearest integers and what is left, in 1/2L, which are
    two rows of one product: the codes are read once for both. L is 127 where sums of such products are exact, which
    gives activations of 15 bits; where they saturate, on processors without VNNI, it is 63, which gives 13. Activations
    of 8 bits alone are not enough for models with outliers, like GPT-2. A token's result does not depend on the tokens
    beside it.

    Args:
        codes_OI: signed codes, int8.
        params: scale and offset, (O, 1) each.
        largest: L, 127 or 63; by default that of this processor.
    """

    def __init__(self, codes_OI: Tensor, params: Params, largest: int | None = None) -> None:
        self.split = _SPLITS[largest or largest_activation()]
        self.packed = _packed(codes_OI, params["scale"].squeeze(-1))
        self.offset_O = params["offset"].squeeze(-1)
        self.held = codes_OI.nbytes + _ROW_BYTES * len(codes_OI)

    @staticmethod
    def takes(params: Params) -> bool:
        """One scale a row, where there are exact products."""
        return params["scale"].shape[1] == 1 and largest_activation() > 0

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        most_N1, parts_2NO = self._parts(x_NI)
        high_NO, low_NO = parts_2NO.view(2, len(x_NI), -1)
        largest = self.split.largest
        return high_NO.add_(low_NO, alpha=0.5 / largest).mul_(most_N1 / largest)

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low: Factors | None) -> Tensor:
        """See `Kernel.layer`; of one token, both parts and the bias are added in one product."""
        if len(x_NI) > 1 or low is None:
            return super().layer(x_NI, bias_O, low)
        most_11, parts_2O = self._parts(x_NI)
        shares_12 = most_11 * self.split.shares_2
        y_1O = torch.mm(shares_12, parts_2O) if bias_O is None else torch.addmm(bias_O, shares_12, parts_2O)
        return low.added(y_1O, x_NI)

    def _parts(self, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """The largest activation of each token, (N, 1), and the products of both parts, (2 N, O), in its units."""
        most_N1 = x_NI.abs().amax(-1, keepdim=True).clamp_min_(_TINY)
        rows_2NI = self.split.steps_211 / most_N1 * x_NI
        high_NI, low_NI = rows_2NI
        largest = self.split.largest
        low_NI.sub_(high_NI.round_(), alpha=2 * largest)  # FBGEMM rounds, too, but not always to the same side
        return most_N1, _product(rows_2NI.view(-1, x_NI.shape[1]), self.packed, largest)

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


def _product(rows_NI: Tensor, packed: Any, largest: int) -> Tensor:
    """Activations in -largest ... largest, rounded to integers, times scaled codes: (N, O) float32."""
    operator = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    product: Tensor = operator(rows_NI, 1.0, largest + 1, packed)
    return product


class _Split(NamedTuple):
    """How activations are split.

    Attributes:
        largest: L, the largest integer of a part.
        steps_211: integers in the largest activation, of both parts.
        shares_2: one by those.
    """

    largest: int
    steps_211: Tensor
    shares_2: Tensor


def _split(largest: int) -> _Split:
    steps_2 = torch.tensor([largest, 2.0 * largest**2])
    return _Split(largest, steps_2.view(2, 1, 1), 1 / steps_2)


_SPLITS = {largest: _split(largest) for largest in (127, 63)}  # the better one first


def largest_activation() -> int:
    """The largest integer that an activation can be for sums of products to be exact; 0 without FBGEMM's product."""
    return next(filter(exact_products, _SPLITS), 0)


@trial
def exact_products(largest: int) -> bool:
    """Whether PyTorch has FBGEMM's product here, and sums of activations up to `largest` that do not saturate.

    127 takes a processor with VNNI. Elsewhere two products have to fit in 16 bits, as they do with 63.
    """
    packed = _packed(torch.full((16, 64), -128, dtype=torch.int8), torch.ones(16))
    rows_2I = torch.tensor([[largest], [-largest]]).expand(2, 64).float()
    return bool((_product(rows_2I, packed, largest) == -64 * 128 * rows_2I[:, :1]).all())


_TINY = 1e-30
_ROW_BYTES = 4 + 4 + 4  # a row's scale, zero point and sum of codes
