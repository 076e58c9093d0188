"""Attention of one new token a row over the cache, in PyTorch's own operator."""

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.inference.steps.cache import Cache


class Attention:
    """The attention of one step.

    Args:
        cache: as the step finds it.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache, self.position = cache, int(cache.position)
        self.seen_N11T: Tensor | None = None
        if cache.start_N.any():
            places_T = torch.arange(self.position + 1, device=cache.start_N.device)
            self.seen_N11T = (places_T >= cache.start_N[:, None])[:, None, None]

    def __call__(self, block: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        """(N, H D), the new keys and values being written to the cache; several queries may share a key."""
        keys_NHTD, values_NHTD = self.cache.keys[block], self.cache.values[block]
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
