"""The forward of a quantised layer with its adapters; peft builds, saves and loads them.

One or two adapters run at a time, the shared one and that of the width, and this forward does what peft's general one
does not: a low-rank product is added to the base product by the matrix multiplication itself, instead of being written,
scaled and added in three sweeps over (N, O); and the input is not copied to the adapter's dtype where autocast would at
once bring it back, which a backward pass would have to keep.
"""

from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class SwitchedLora(Linear):
    """y = base(x) + the sum over active adapters of (alpha / r) B A dropout(x), A (R, I) and B (O, R)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., I) -> (..., O), in the dtype that the base gives."""
        base = self.base_layer(x)
        if not self._active_adapter or self.disable_adapters or self.merged:
            return base
        sum_NO = base.flatten(0, -2)
        for name in self._active_adapter:
            a_RI, b_OR = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
            dropout = self.lora_dropout[name]
            dropped = x if isinstance(dropout, nn.Identity) else dropout(x)
            if not torch.is_autocast_enabled(x.device.type):
                dropped = dropped.to(a_RI.dtype)
            low_NR = F.linear(dropped, a_RI).flatten(0, -2)
            sum_NO = torch.addmm(sum_NO.to(low_NR.dtype), low_NR, b_OR.T, alpha=self.scaling[name])
        return sum_NO.to(base.dtype).view(base.shape)
