"""The tensors of an artifact as a model's layers ask for them, for the device that the model runs on."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from switchq.errors import UserError
from switchq.inference.artifact import Artifact
from switchq.inference.gpu.kernel import PlanesKernel, PlaneStore
from switchq.inference.kernels import Kernel, Plain, choose
from switchq.inference.table import (
    HalfEmbedding,
    HalfHead,
    TableEmbedding,
    TableHead,
    half_products,
    table_kernel,
)
from switchq.inference.tuning import Timing, timing
from switchq.quant import Grid, Params
from switchq.quant.planes import pack_planes, unpack_planes

Prefer = Literal["speed", "memory"]
"""How an artifact is read on a CPU."""


def check_preference(prefer: str) -> None:
    """Make sure that `prefer` is one of those that there are.

    Raises:
        UserError: it is not.
    """
    if prefer not in get_args(Prefer):
        raise UserError(f"prefer is {' or '.join(get_args(Prefer))}, not {prefer!r}")


class ArtifactSource:
    """The tensors of an artifact, as `switchq.inference.linear.Source` asks for them.

    Args:
        artifact: where they lie.
        packed: False multiplies in float32 everywhere, with the numbers of training.
        device: where the model runs; on another than a CPU, planes are kept there as words.
        dtype: of the model's activations.
        prefer: whether tensors are mapped (`speed`), or read (`memory`).
    """

    def __init__(
        self,
        artifact: Artifact,
        packed: bool,
        device: torch.device = torch.device("cpu"),
        dtype: torch.dtype = torch.float32,
        prefer: Prefer = "speed",
    ) -> None:
        self.artifact, self.packed, self.device, self.dtype, self.prefer = artifact, packed, device, dtype, prefer
        self.store = None if device.type == "cpu" else PlaneStore(device)
        self.widths = artifact.manifest.widths
        self.grid = Grid.from_dict(artifact.manifest.grid)

    def codes(self, layer: str, bits: int) -> Tensor:
        """See `Source.codes`; reads planes that were not read before."""
        return unpack_planes(self._planes(layer, bits), self.artifact.manifest.layers[layer])

    def _planes(self, layer: str, bits: int) -> list[Tensor]:
        return [self._passing(f"plane{k}.{layer}") for k in range(bits)]

    def _passing(self, name: str) -> Tensor:
        """A tensor that something is made of: pages of the file need not stay with the process."""
        return self.artifact.tensor(name, mapped=self.prefer == "speed")

    def levels(self, layer: str, bits: int) -> Params:
        """See `Source.levels`."""
        return {name: self._passing(f"levels{bits}.{name}.{layer}").float() for name in ("scale", "offset")}

    def adapter(self, layer: str, bits: int, adapters: bool = True) -> tuple[Tensor, Tensor] | None:
        """See `Source.adapter`."""
        kept = f"adapter{bits}" if adapters else "taken"
        if adapters and bits not in self.artifact.manifest.adapters:
            return None
        if not adapters and not self.artifact.has(f"taken.A.{layer}"):
            return None
        stored = (self._passing(f"{kept}.{factor}.{layer}") for factor in "AB")
        a_RI, b_OR = (factor.to(self.device, self.dtype) for factor in stored)
        return a_RI, b_OR

    def kernel(self, layer: str, bits: int) -> tuple[Kernel, Timing | None]:
        """See `Source.kernel`."""
        params = self.levels(layer, bits)
        if self.store is not None:
            shape = self.artifact.manifest.layers[layer]
            tiles = self.store.planes(layer, self._planes(layer, bits), shape)
            halves = {name: value.to(self.device, torch.float16) for name, value in params.items()}
            return PlanesKernel(tiles, halves, shape[1], self.dtype), None
        kernel = choose(self.codes(layer, bits), params, bits, self.grid, self.packed)
        if isinstance(kernel, Plain):
            return kernel, None
        outputs, inputs = self.artifact.manifest.layers[layer]
        key = f"{type(kernel).__name__} {bits} bits, {outputs} x {inputs}, {params['scale'].shape[1]} groups"
        return kernel, timing(key, kernel, lambda: self.grid.decode(self.codes(layer, bits), params))

    def embedding(self, name: str) -> nn.Module | None:
        """What looks up rows of the table `name` as it is stored; None for one that is a parameter like others."""
        if self.artifact.has(f"codes.{name}"):
            codes_VI, scale_V1 = self._table(name)
            return TableEmbedding(codes_VI.to(self.device), scale_V1.to(self.device), self.dtype)
        return HalfEmbedding(self._half(name), self.dtype) if self._keeps_half(name) else None

    def head(self, name: str, shared: bool) -> nn.Module | None:
        """What multiplies with the table `name` as it is stored; None for one that is a parameter like others.

        Args:
            name: of the table.
            shared: whether the embedding has it, too, so that its bytes are counted there.
        """
        if self.artifact.has(f"codes.{name}"):
            codes_VI, scale_V1 = self._table(name)
            own = 0 if shared else codes_VI.nbytes + scale_V1.nbytes
            return TableHead(self._table_kernel(codes_VI, scale_V1), len(codes_VI), own)
        if not self._keeps_half(name):
            return None
        weight_VI = self._half(name)
        return HalfHead(weight_VI, 0 if shared else weight_VI.nbytes)

    def _table(self, name: str) -> tuple[Tensor, Tensor]:
        return self.artifact.tensor(f"codes.{name}"), self.artifact.tensor(f"scale.{name}")

    def _half(self, name: str) -> Tensor:
        return self.artifact.tensor(f"rest.{name}")

    def _keeps_half(self, name: str) -> bool:
        """Whether a float16 table is not made float32: elsewhere than on a CPU the model is in 16 bits itself."""
        here = self.packed and self.store is None and self.artifact.manifest.embedding_bits == 16
        return here and half_products() and self.artifact.has(f"rest.{name}")

    def _table_kernel(self, codes_VI: Tensor, scale_V1: Tensor) -> Kernel:
        if self.store is None:
            return table_kernel(codes_VI, scale_V1, self.packed)
        rows, width = codes_VI.shape
        planes = self.store.planes("table", pack_planes(codes_VI), (rows, width))
        scale_V1 = scale_V1.to(self.device)
        return PlanesKernel(planes, {"scale": scale_V1, "offset": torch.zeros_like(scale_V1)}, width, self.dtype)
