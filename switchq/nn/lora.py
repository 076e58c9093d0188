"""The forward of a quantised layer with its adapters; peft builds, saves and loads them.

At most one adapter runs at a time, which allows what peft's general forward cannot do: the low-rank product is added to
the base product by the matrix multiplication itself, instead of being written, scaled and added in three sweeps over
(N, O); and the input is not copied to the adapter's dtype where autocast would at once bring it back, which a backward
pass would have to keep.
"""

from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class SwitchedLora(Linear):
    """y = base(x) + (alpha / r) B A dropout(x), A (R, I) and B (O, R) of the active adapter; base(x) without one."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., I) -> (..., O), in the dtype that the base gives."""
        base = self.base_layer(x)
        if not self._active_adapter or self.disable_adapters or self.merged:
            return base
        name = self._active_adapter[0]
        a_RI, b_OR = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
        dropout = self.lora_dropout[name]
        if not isinstance(dropout, nn.Identity):
            x = dropout(x)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(a_RI.dtype)
        low_NR = F.linear(x, a_RI).flatten(0, -2)
        base_NO = base.flatten(0, -2).to(low_NR.dtype)
        return torch.addmm(base_NO, low_NR, b_OR.T, alpha=self.scaling[name]).to(base.dtype).view(base.shape)
