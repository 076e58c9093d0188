"""A packed weight on a GPU, as `switchq.inference.linear` runs it.

Few rows of activations are multiplied by the planes themselves, many (a prompt, a batch) by the decoded weight; without
Triton, or on a GPU without the kernels' instructions, all are. Both give the numbers of the training grid, rounded to
the model's type.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.inference.gpu.device import multiplies
from switchq.inference.gpu.tiles import TiledWeight, check_groups, decoded, to_levels, to_tiles
from switchq.inference.kernels import Kernel
from switchq.inference.low_rank import Factors, LowRank
from switchq.quant import Params


@cache
def products() -> ModuleType | None:
    """The kernels, if there is a Triton to run them."""
    if find_spec("triton") is None:
        return None
    from switchq.inference.gpu import products as found

    return found


class PlanesKernel(Kernel):
    """A weight (O, I) as the tiles of its planes.

    Args:
        planes: words of each plane, see `switchq.inference.gpu.tiles`.
        params: scale and offset, (O, G) each; kept in float16.
        inputs: I.
        dtype: of activations and results.
    """

    rows = True

    def __init__(self, planes: Sequence[Tensor], params: Params, inputs: int, dtype: torch.dtype) -> None:
        scale_OG, offset_OG = params["scale"], params["offset"]
        check_groups(inputs, scale_OG.shape[1])
        self.tiled = TiledWeight(tuple(planes), to_levels(scale_OG, offset_OG), (len(scale_OG), inputs))
        self.dtype = dtype

    def weight(self) -> Tensor:
        """The weight (O, I)."""
        found = self._products()
        if found is not None:
            weight_OI: Tensor = found.weight(self.tiled, self.dtype)
            return weight_OI
        return decoded(self.tiled).to(self.dtype)

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        return self.layer(x_NI, None, None)

    def layer(self, x_NI: Tensor, bias_O: Tensor | None, low: Factors | None) -> Tensor:
        """See `Kernel.layer`."""
        found = self._products()
        if found is None or len(x_NI) > found.MOST:
            y_NO = F.linear(x_NI, self.weight(), bias_O)
            return y_NO if low is None else low.added(y_NO, x_NI)
        y_NO = found.product(
            x_NI, self.tiled, bias_O=bias_O,
            low=(F.linear(x_NI, low.low_RI), low.high_RO.T) if isinstance(low, LowRank) else None,
        )  # fmt: skip
        return y_NO

    def _products(self) -> ModuleType | None:
        return products() if multiplies(self.tiled.levels.device) else None

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return sum(one.nbytes for one in (*self.tiled.planes, self.tiled.levels))


class PlaneStore:
    """The planes of an artifact's layers on a device: each is cut into tiles once, when a width first needs it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._planes: dict[str, list[Tensor]] = {}

    def planes(self, layer: str, stored: Sequence[Tensor], shape: tuple[int, int]) -> list[Tensor]:
        """The tiles of the planes `stored` of a layer, made for those that are new."""
        held = self._planes.setdefault(layer, [])
        for number in range(len(held), len(stored)):
            held.append(to_tiles(stored[number].to(self.device), number, shape))
        return held[: len(stored)]
