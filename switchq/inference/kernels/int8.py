"""8-bit codes, multiplied in integers."""

import warnings
from typing import Any

import torch
from torch import Tensor

from switchq.inference.kernels.kernel import Kernel
from switchq.inference.kernels.trial import trial
from switchq.inference.low_rank import Factors
from switchq.quant import Params


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


@trial
def exact_products() -> bool:
    """Whether PyTorch has FBGEMM's product here, and sums that do not saturate: those of a processor with VNNI."""
    packed = _packed(torch.full((16, 64), _LARGEST, dtype=torch.int8), torch.ones(16))
    product = _product(torch.full((1, 64), float(_LARGEST)), packed)
    return bool((product == 64 * _LARGEST**2).all())


_LARGEST = 127
_TINY = 1e-30
_STEPS_211 = torch.tensor([_LARGEST, 2.0 * _LARGEST**2]).view(2, 1, 1)  # of both parts, in the largest activation
_SHARES_2 = 1 / _STEPS_211.flatten()
_ROW_BYTES = 4 + 4 + 4  # a row's scale, zero point and sum of codes
