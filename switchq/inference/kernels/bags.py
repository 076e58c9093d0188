"""Codes of 2 or 4 bits, multiplied in float32 by an operator that was made to add up rows of embeddings.

FBGEMM's embedding bags hold a table in 2 or 4 bits and give weighted sums of its rows. With a row for each input of a
linear layer, which holds the codes of all outputs, a bag for each group, and activations for weights, that is

    bag (G, O) = sum over the inputs i of group g:  x_i x code_io        exact codes, float32 sums
    y (O)      = sum over g:  scale_go x bag_go + offset_go x sum over i in g:  x_i

A row ends with a float16 factor and bias of the operator's own: 1, and the lowest code, so that codes are signed again.
Half the bytes of the 4-bit operator at 2 bits, and any size of groups; but the operator takes one token after the other
on one core, in about 1.5 times the time.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.inference.kernels.kernel import Kernel
from switchq.inference.kernels.trial import trial
from switchq.quant import Params


class Bags(Kernel):
    """FBGEMM's sums of rows, which are the inputs' codes.

    Args:
        codes_OI: signed codes, int8.
        params: scales and offsets, (O, G) each, that float16 holds, as an artifact does.
        bits: of the codes, at most 4; 3 take the room of 4.
    """

    rounded_factors = True

    def __init__(self, codes_OI: Tensor, params: Params, bits: int) -> None:
        self.bits = 2 if bits == 2 else 4
        self.outputs = len(codes_OI)
        self.table_IP = _table(codes_OI, self.bits)
        self.scale_GO, self.offset_GO = (params[name].T.contiguous().half() for name in ("scale", "offset"))

    @staticmethod
    def takes(bits: int) -> bool:
        """Codes of at most 4 bits, where PyTorch has the operator."""
        return bits <= 4 and bag_products()

    def product(self, x_NI: Tensor) -> Tensor:
        """See `Kernel.product`."""
        tokens, groups = len(x_NI), len(self.scale_GO)
        bags_NGO = _bags(self.table_IP, x_NI, groups, self.bits)[:, : self.outputs].unflatten(0, (tokens, groups))
        sums_NG = x_NI.unflatten(1, (groups, -1)).sum(-1)
        return bags_NGO.mul_(self.scale_GO).sum(1).addmm_(sums_NG, self.offset_GO.float())

    @property
    def resident_bytes(self) -> int:
        """See `Kernel.resident_bytes`."""
        return self.table_IP.nbytes + self.scale_GO.nbytes + self.offset_GO.nbytes


def _table(codes_OI: Tensor, bits: int) -> Tensor:
    """The operator's table (I, P), bytes: an input's codes, the first one lowest, zeros to fill up, factor and bias."""
    lowest, share = -(2 ** (bits - 1)), 8 // bits
    unsigned_IO = (codes_OI - lowest).T.to(torch.uint8)
    filled_IO = F.pad(unsigned_IO, (0, -len(codes_OI) % share))
    table_IP = filled_IO[:, ::share].clone()
    for place in range(1, share):
        table_IP |= filled_IO[:, place::share] << (place * bits)
    ends_4 = torch.tensor([1.0, lowest], dtype=torch.float16).view(torch.uint8)
    return torch.cat([table_IP, ends_4.expand(len(table_IP), 4)], 1)


def _bags(table_IP: Tensor, x_NI: Tensor, groups: int, bits: int) -> Tensor:
    """For every token and group the sum of x times codes: (N G, O), O filled up."""
    operator = getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_rowwise_offsets")
    rows_NI, starts_NG = _places(len(x_NI), x_NI.shape[1], groups)
    bags: Tensor = operator(table_IP, rows_NI, starts_NG, per_sample_weights=x_NI.flatten())
    return bags


@lru_cache(maxsize=64)
def _places(tokens: int, inputs: int, groups: int) -> tuple[Tensor, Tensor]:
    """The rows that the bags of all tokens add up, and where each bag begins among them, int32."""
    rows_NI = torch.arange(inputs, dtype=torch.int32).repeat(tokens)
    return rows_NI, torch.arange(0, tokens * inputs, inputs // groups, dtype=torch.int32)


@trial
def bag_products() -> bool:
    """Whether PyTorch has the operators here, and they add up what they should."""
    codes_OI = torch.tensor([[-2, 1, 0], [1, -1, -2]], dtype=torch.int8)
    x_NI = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.5, 0.0]])
    found = [_bags(_table(codes_OI, bits), x_NI, 1, bits)[:, :2] for bits in (2, 4)]
    return all(torch.equal(bags_NO, x_NI @ codes_OI.float().T) for bags_NO in found)
