"""A linear layer that runs from an artifact's planes, and its entry in the model's switch.

A width is prepared once: its planes are read and its kernel is packed. After that a switch writes two attributes.

    y = kernel(x) + bias + x A^T (scaling x B)^T

A long input is multiplied with the decoded weight where that is faster than the kernel.
"""

from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from switchq.bitmap import Bitmap
from switchq.inference.kernels import Kernel, Plain
from switchq.inference.low_rank import Factors, LowRank
from switchq.inference.rounded_low_rank import RoundedLowRank
from switchq.inference.tuning import Timing
from switchq.nn.switch import SwitchLayer
from switchq.quant import Grid, Params


class Source(Protocol):
    """Where a layer's tensors come from."""

    grid: Grid
    widths: tuple[int, ...]

    def codes(self, layer: str, bits: int) -> Tensor:
        """The codes (O, I), int8, of `bits`."""

    def levels(self, layer: str, bits: int) -> Params:
        """Scale and offset of `bits`, (O, G) float32 each."""

    def adapter(self, layer: str, bits: int, adapters: bool = True) -> tuple[Tensor, Tensor] | None:
        """A (R, I) and B (O, R) with the scaling in it, float32, of the adapter trained at `bits`; None without one.

        Without `adapters` it is what the weight was rounded without, if that is anything.
        """

    def kernel(self, layer: str, bits: int) -> tuple[Kernel, Timing | None]:
        """The kernel, and how fast it is here; None for `Plain`."""


class Ready(NamedTuple):
    """All that a forward at one width needs.

    Attributes:
        kernel: the packed weight.
        timing: how fast it is on this machine; None for `Plain`.
        long: tokens from which on the weight is decoded instead; None for never.
        bits: the width.
        adapters: whether the adapter is in.
        low: the adapter's factors; None without one.
    """

    kernel: Kernel
    timing: Timing | None
    long: int | None
    bits: int
    adapters: bool
    low: Factors | None


class PackedLinear(nn.Module):
    """y = x W^T + b + adapter(x).

    Args:
        name: the layer's name in the artifact.
        shape: (O, I).
        bias_O: the bias, or None.
        source: where the rest comes from, when a width is prepared.
    """

    bits: int
    ready: Ready

    def __init__(self, name: str, shape: tuple[int, int], bias_O: Tensor | None, source: Source) -> None:
        super().__init__()
        self.name, self.shape, self.source, self.grid = name, shape, source, source.grid
        self.bias = None if bias_O is None else nn.Parameter(bias_O, requires_grad=False)
        self._ready: dict[tuple[int, bool], Ready] = {}

    def prepared(self, bits: int, adapters: bool) -> Ready:
        """What runs at `bits`; made when it is first asked for.

        Raises:
            UserError: the artifact does not hold this width, or its tensors are damaged.
        """
        found = self._ready.get((bits, adapters))
        if found is None:
            found = self._ready[bits, adapters] = self._prepare(bits, adapters)
        return found

    def _prepare(self, bits: int, adapters: bool) -> Ready:
        Bitmap([bits]).check_held(self.source.widths)
        other = self._ready.get((bits, not adapters))
        if other is not None:
            kernel, timing = other.kernel, other.timing
        else:
            kernel, timing = self.source.kernel(self.name, bits)
        long = timing.tokens_to_decode if timing is not None else None
        low: Factors | None = self._factors(kernel, bits, adapters)
        if isinstance(low, LowRank) and kernel.rounded_factors:
            low = RoundedLowRank(low.low_RI, low.high_RO)
        return Ready(kernel, timing, long, bits, adapters, low)

    def _factors(self, kernel: Kernel, bits: int, adapters: bool) -> LowRank | None:
        """A and B^T, as the kernel wants them."""
        trained = self.source.adapter(self.name, bits, adapters)
        if trained is None:
            return None
        low_RI, high_RO = trained[0], trained[1].T
        if not kernel.rows:
            return LowRank(low_RI, high_RO.contiguous())
        even = (0, 0, 0, len(low_RI) % 2)
        return LowRank(F.pad(low_RI, even), F.pad(high_RO, even).T.contiguous().T)

    def levels(self, bits: int) -> Params:
        """Scale and offset at `bits`."""
        return self.source.levels(self.name, bits)

    def weight_at(self, bits: int) -> Tensor:
        """The weight (O, I) at `bits`, float32: what training rounded it to."""
        return self.grid.decode(self.source.codes(self.name, bits), self.levels(bits))

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return self.multiply(x.reshape(-1, self.shape[1])).view(*x.shape[:-1], self.shape[0])

    def multiply(self, x_NI: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        ready = self.ready
        if ready.long is not None and len(x_NI) >= ready.long:
            return self._decoded(ready).layer(x_NI, self.bias, self._exact(ready))
        return ready.kernel.layer(x_NI, self.bias, ready.low)

    def _decoded(self, ready: Ready) -> Plain:
        """The weight as floats."""
        return Plain(self.source.codes(self.name, ready.bits), self.levels(ready.bits), self.grid)

    def _exact(self, ready: Ready) -> Factors | None:
        """The factors as they are stored."""
        if not ready.kernel.rounded_factors:
            return ready.low
        return self._factors(ready.kernel, ready.bits, ready.adapters)


class PackedLayer(SwitchLayer):
    """A `PackedLinear` as an entry of a bitmap."""

    linear: PackedLinear  # type: ignore[assignment]

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.linear.shape

    def switch(self, bits: int, adapters: bool) -> None:
        """See `SwitchLayer.switch`."""
        state = self.linear.__dict__
        state["ready"] = state["_ready"].get((bits, adapters)) or self.linear.prepared(bits, adapters)
        state["bits"] = bits

    def low_rank(self, bits: int, adapters: bool = True) -> tuple[Tensor, Tensor] | None:
        """See `SwitchLayer.low_rank`."""
        return self.linear.source.adapter(self.linear.name, bits, adapters)
