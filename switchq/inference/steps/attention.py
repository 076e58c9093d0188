"""Attention of one new token a row over the cache: machine code where it can be had, else PyTorch's own operator."""

from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.inference.kernels.machine import attention, worth_waking
from switchq.inference.kernels.machine.rows import LANES
from switchq.inference.kernels.trial import trial
from switchq.inference.steps.cache import Cache


class Attention:
    """The attention of one step, without gradients.

    Args:
        cache: as the step finds it.
        compiled: whether machine code may be used: for a cache of float32 on a CPU, and heads of whole vectors.

    Raises:
        IndexError: the cache is full.
    """

    def __init__(self, cache: Cache, compiled: bool = True) -> None:
        self.cache, self.position = cache, int(cache.position)
        keys_NHTD = cache.keys[0]
        rows, heads, self.capacity, width = keys_NHTD.shape
        if not 0 <= self.position < self.capacity:
            raise IndexError(f"a cache of {self.capacity} places has none of number {self.position}")
        known = keys_NHTD.device.type == "cpu" and keys_NHTD.dtype == torch.float32 and width % LANES == 0
        self.call = attention(width) if compiled and known and attends() else None
        self.seen_N11T: Tensor | None = None
        if self.call is not None:
            self.scores = keys_NHTD.new_empty(rows * heads * (self.capacity + LANES))
            self.threads = worth_waking(2 * rows * heads * width * (self.position + 1))
        elif cache.start_N.any():
            places_T = torch.arange(self.position + 1, device=cache.start_N.device)
            self.seen_N11T = (places_T >= cache.start_N[:, None])[:, None, None]

    def __call__(self, block: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        """(N, H D), the new keys and values being written to the cache; several queries may share a key.

        Args:
            block: which of the model's.
            q_NHD: queries.
            k_NHD: keys.
            v_NHD: values.
        """
        keys_NHTD, values_NHTD = self.cache.keys[block], self.cache.values[block]
        if self.call is not None:
            q_NHD, k_NHD, v_NHD = _together(q_NHD), _together(k_NHD), _together(v_NHD)
            out_NHD = q_NHD.new_empty(q_NHD.shape)
            given = (q_NHD, k_NHD, v_NHD, keys_NHTD, values_NHTD, out_NHD, self.scores, self.cache.start_N)
            rows, heads = keys_NHTD.shape[:2]
            self.call(
                *(one.data_ptr() for one in given), rows, heads, q_NHD.shape[1] // heads, self.capacity, self.position,
                q_NHD.stride(0), k_NHD.stride(0), v_NHD.stride(0), self.threads,
            )  # fmt: skip
            return out_NHD.flatten(1)
        keys_NHTD.select(2, self.position).copy_(k_NHD)
        values_NHTD.select(2, self.position).copy_(v_NHD)
        out_NHTD = F.scaled_dot_product_attention(
            q_NHD.unsqueeze(2),
            keys_NHTD[:, :, : self.position + 1],
            values_NHTD[:, :, : self.position + 1],
            attn_mask=self.seen_N11T,
            enable_gqa=q_NHD.shape[1] != k_NHD.shape[1],
        )
        return out_NHTD.flatten(1)


def _together(x_NHD: Tensor) -> Tensor:
    """The same in float32, the heads of a row one after the other."""
    x_NHD = x_NHD.float()
    return x_NHD if x_NHD.stride()[1:] == (x_NHD.shape[2], 1) else x_NHD.contiguous()


@trial
def attends() -> bool:
    """Whether machine code can be made here, and attends as it should: the second of two keys counts three times."""
    key_11D = torch.zeros(1, 1, LANES)
    key_11D[..., 0] = 1
    query_11D, value_11D = LANES**0.5 * log(3) * key_11D, 4 * key_11D
    keys_11TD, values_11TD, out_11D = torch.zeros(3, 1, 1, 2, LANES).unbind()
    room, start_1 = torch.empty(2 + LANES), torch.zeros(1, dtype=torch.long)
    given = (query_11D, key_11D, value_11D, keys_11TD, values_11TD, out_11D, room, start_1)
    attention(LANES)(*(one.data_ptr() for one in given), 1, 1, 1, 2, 1, LANES, LANES, LANES, 1)
    return torch.allclose(out_11D[0, 0, 0], torch.tensor([3.0] + [0.0] * (LANES - 1)))
