"""The nested grid: one 8-bit code per weight, whose top b bits are its b-bit code.

A group's range, from its smallest to its largest weight, is cut into 256 cells of equal width, and the parent code
says in which of them a weight lies: -128 to 127, in two's complement. Its top b bits then say in which of 2^b wider
cells it lies. Levels are the middles of cells, so floors nest and are the nearest level at every width; rounding the
8-bit code to b bits would carry past the top bits. What nesting costs is that all widths share one range, where a
width on its own clips the more, the fewer its bits; in groups of 128 and below that is next to nothing.

What each width has for itself is where its levels lie, by least squares over the codes of a group:

    level(code) = code x scale + offset

Both keep 8 significant bits, which float16 on disk and bfloat16 in a kernel hold exactly: packing changes no level.

Related: Any-Precision LLM (arXiv:2402.10517) nests non-uniform codes with a table per row and width; MatQuant
(arXiv:2502.06787) and Double Rounding (arXiv:2502.02069) round the narrow code from the wide one, with a carry that
they clamp, and train through it; so does `double`. Levels here are affine in the code because that is what integer
kernels multiply.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from switchq.quant.grid import SMALLEST_SCALE, Grid, Params, stored_scale

PARENT_BITS = 8
"""Bits of the code that all narrower codes are the top of."""

JUDGES = (4, 2)
"""The widths by which the range search judges a range."""


@dataclass(frozen=True)
class Nested(Grid):
    """Nested signed integers with a scale and an offset per group (or per output row) and width.

    `scale: absmax` takes the whole range of a group. `mse` takes the range with the least product of the squared errors
    at 4 and 2 bits, one for all widths: it cuts long rows, which costs 8 bits more than it gives the others.

    Args:
        double: round narrow codes from the 8-bit code, to the nearest, instead of taking its top bits. They are no part
            of it then: such a model is trained and scored, and an artifact rounds it again.
    """

    double: bool = False

    @property
    def nests(self) -> bool:
        """See `Grid.nests`."""
        return not self.double

    def range_params(self, weight_OGS: Tensor, bits: int, shrink: float) -> Params:
        """`low` and `cell` place the 256 parent cells, `scale` and `offset` the levels of `bits`."""
        low, high = weight_OGS.amin(-1, keepdim=True), weight_OGS.amax(-1, keepdim=True)
        cell = (high - low) * shrink / 2**PARENT_BITS
        cell = torch.where(cell > 0, cell.clamp(min=SMALLEST_SCALE), torch.ones_like(cell))
        parent = {"low": (low + high) / 2 - cell * 2 ** (PARENT_BITS - 1), "cell": cell}
        return {**parent, **_fit_levels(weight_OGS, self.encode_groups(weight_OGS, parent, bits), cell, bits)}

    def encode_groups(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """floor((w - low) / cell) as a signed 8-bit code, of which the top `bits` are kept, or what is nearest."""
        parent = ((weight_OGS - params["low"]) / params["cell"]).floor().clamp(0, 2**PARENT_BITS - 1)
        narrow = (parent - 2 ** (PARENT_BITS - 1)) / 2 ** (PARENT_BITS - bits)
        return (narrow + 0.5).floor().clamp(max=2 ** (bits - 1) - 1) if self.double else narrow.floor()

    def decode_groups(self, codes_OGS: Tensor, params: Params) -> Tensor:
        """code x scale + offset."""
        return codes_OGS * params["scale"] + params["offset"]

    def overhead_bits(self, shape: tuple[int, int], bits: int) -> int:
        """A 16-bit scale and a 16-bit offset per group."""
        return shape[0] * self.groups(shape[1]) * 32

    def _error(self, weight_OGS: Tensor, params: Params, bits: int) -> Tensor:
        """The log of the product of the errors of all `JUDGES`, so that every width takes the same range."""
        total = torch.zeros_like(params["cell"])
        for width in JUDGES:
            codes_OGS = self.encode_groups(weight_OGS, params, width)
            levels = _fit_levels(weight_OGS, codes_OGS, params["cell"], width)
            error = (self.decode_groups(codes_OGS, levels) - weight_OGS).square().sum(-1, keepdim=True)
            total += error.clamp(min=torch.finfo(error.dtype).tiny).log()
        return total


def _fit_levels(weight_OGS: Tensor, codes_OGS: Tensor, cell: Tensor, bits: int) -> Params:
    """The line through (code, weight) with the least squared error; a group with one code keeps its cells' width."""
    code_mean, weight_mean = codes_OGS.mean(-1, keepdim=True), weight_OGS.mean(-1, keepdim=True)
    centred_OGS = codes_OGS - code_mean
    spread = centred_OGS.square().sum(-1, keepdim=True)
    slope = (centred_OGS * weight_OGS).sum(-1, keepdim=True) / spread.clamp(min=1e-6)
    scale = torch.where(spread > 0, slope, cell * 2 ** (PARENT_BITS - bits)).clamp(min=SMALLEST_SCALE)
    scale = stored_scale(_eight_bits(scale))
    return {"scale": scale, "offset": _eight_bits(weight_mean - scale * code_mean)}


def _eight_bits(value: Tensor) -> Tensor:
    """`value` with 8 significant bits, in the range of float16."""
    return value.bfloat16().half().float()
