"""Codes, multiplied in integers by machine code that is made for this processor."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.errors import UserError
from switchq.inference.kernels.kernel import Kernel
from switchq.inference.kernels.machine import Weight, adapted, product, room_bytes, worth_waking
from switchq.inference.kernels.packing import Layout
from switchq.inference.kernels.trial import trial
from switchq.inference.low_rank import Factors
from switchq.quant import Params


class Integer(Kernel):
    """Codes packed in 2, 4 or 8 bits, activations of 16, sums of 32; `machine` has the equations.

    Args:
        codes_OI: signed codes, int8.
        params: scales and offsets, (O, G) each, that float16 holds, as an artifact does.
        bits: of the codes.

    Raises:
        UserError: levels that do not fit the codes: machine code would read beyond them.
    """

    def __init__(self, codes_OI: Tensor, params: Params, bits: int) -> None:
        outputs, inputs = codes_OI.shape
        groups = params["scale"].shape[-1]
        for name in ("scale", "offset"):
            if params[name].shape != (outputs, groups) or inputs % groups:
                raise UserError(f"{tuple(params[name].shape)} numbers are no {name} of codes {(outputs, inputs)}")
        self.outputs, self.inputs, self.groups, self.rounded_factors = outputs, inputs, groups, bits <= 4
        self.layout = Layout.of(bits, inputs // groups)
        self.lowest = 2 ** (bits - 1) if self.layout.field < 8 else 0
        self.codes_OP = self.layout.pack(codes_OI, groups, self.lowest)
        filling = (0, self.layout.laid(groups) - groups)
        levels = (F.pad(params[name], filling).half().contiguous() for name in ("scale", "offset"))
        self.scale_OG, self.offset_OG = levels
        self._bind()

    def _bind(self) -> None:
        """Tell machine code where everything lies."""
        layout, size = self.layout, self.inputs // self.groups
        self.stride, self.sums = room_bytes(layout, self.groups, size), 4 * self.outputs
        told = {
            "codes": self.codes_OP.data_ptr(),
            "scales": self.scale_OG.data_ptr(),
            "offsets": self.offset_OG.data_ptr(),
            "outputs": self.outputs,
            "inputs": self.inputs,
            "groups": self.groups,
            "laid": layout.laid(self.groups),
            "size": size,
            "blocks": layout.blocks(size),
            "lowest": self.lowest,
            "row": self.codes_OP.shape[1],
            "stride": self.stride,
        }
        self._told = (ctypes.c_int64 * len(told))(*(told[name] for name in Weight._fields))
        self._call, self._address = product(layout, self.alone), ctypes.addressof(self._told)
        self._linked = (ctypes.c_void_p * 2)(ctypes.cast(self._call, ctypes.c_void_p).value, self._address)
        self.link = ctypes.addressof(self._linked)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or another process, has other addresses."""
        bound = ("_told", "_call", "_address", "_linked", "link")
        return {name: value for name, value in vars(self).items() if name not in bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bind()

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        return self.layer(x_NI, None, None)

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low: Factors | None) -> Tensor:
        """See `Kernel.layer`."""
        self._check(x_NI, bias_O)
        x_NI, tokens = x_NI.contiguous(), len(x_NI)
        y_NO = x_NI.new_empty(tokens, self.outputs)
        bias = None if bias_O is None else bias_O.data_ptr()
        factors = low.products if low is not None and tokens == 1 else None
        if factors is not None:
            self._adapted(x_NI, y_NO, bias, factors)
            return y_NO
        room = x_NI.new_empty(tokens * self.stride + self.sums, dtype=torch.uint8)
        self._call(
            self._address, x_NI.data_ptr(), y_NO.data_ptr(), bias, room.data_ptr(), tokens, self._threads(tokens)
        )
        return y_NO if low is None else low.added(y_NO, x_NI)

    @property
    def alone(self) -> bool:
        """Whether a row has one group."""
        return self.layout.laid(self.groups) == 1

    def _threads(self, tokens: int) -> int:
        """That are worth waking."""
        return worth_waking(tokens * self.outputs * self.inputs)

    def _adapted(self, x_1I: Tensor, y_1O: Tensor, bias: int | None, factors: tuple["Integer", "Integer"]) -> None:
        """A token's product and its adapter's, in one call of machine code."""
        low, high = factors
        if (low.inputs, high.outputs) != (self.inputs, self.outputs) or low.outputs != high.inputs:
            sizes = f"({low.outputs}, {low.inputs}) and ({high.outputs}, {high.inputs})"
            raise ValueError(f"factors of {sizes} are no adapter of a weight ({self.outputs}, {self.inputs})")
        most = max(one.stride + one.sums for one in (self, low, high))
        room = x_1I.new_empty(most + 4 * (low.outputs + self.outputs), dtype=torch.uint8)
        place = room.data_ptr()
        inner = place + most
        given = x_1I.data_ptr(), y_1O.data_ptr(), bias, place, inner, inner + 4 * low.outputs
        adapted()(self.link, low.link, high.link, *given, self._threads(1), low._threads(1), high._threads(1))

    def _check(self, x_NI: Tensor, bias_O: Tensor | None) -> None:
        """Make sure that machine code, which gets bare addresses, finds what it expects there."""
        if x_NI.device.type != "cpu" or x_NI.dtype != torch.float32 or x_NI.shape[1:] != (self.inputs,):
            given = f"{tuple(x_NI.shape)} of {x_NI.dtype} on {x_NI.device}"
            raise ValueError(f"activations are (N, {self.inputs}) of torch.float32 on a CPU, not {given}")
        if x_NI.requires_grad and torch.is_grad_enabled():
            raise ValueError("packed products have no gradient: use torch.no_grad(), or packed=False")
        if bias_O is not None and not (
            bias_O.device.type == "cpu"
            and bias_O.dtype == torch.float32
            and bias_O.shape == (self.outputs,)
            and bias_O.is_contiguous()
        ):
            raise ValueError(f"a bias is {self.outputs} numbers of torch.float32 on a CPU, one after the other")

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return sum(one.nbytes for one in (self.codes_OP, self.scale_OG, self.offset_OG))


@trial
def integer_products() -> bool:
    """Whether machine code can be made here, and multiplies as it should: codes of 2, 4 and 8 bits."""
    codes_OI = torch.tensor([[-2, 1, 0], [1, -1, -2]], dtype=torch.int8)
    ones_O1 = torch.ones(2, 1)
    for bits, most in ((2, 32639.0), (4, 32639.0), (8, 32767.0)):
        kernel = Integer(codes_OI, {"scale": ones_O1, "offset": 0 * ones_O1}, bits)
        x_NI = torch.tensor([[most, 2.0, 4.0], [-most, 500.0, 0.0]])
        if not torch.equal(kernel.product(x_NI), x_NI @ codes_OI.float().T):
            return False
    return True
