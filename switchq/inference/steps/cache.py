"""What a step reads and writes, in buffers that keep their place from token to token."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Cache:
    """Keys, values and tokens so far.

    Attributes:
        keys: of each block, (N, H, T, D).
        values: of each block, (N, H, T, D).
        ids_N: the tokens to go in, then those that came out.
        position: where they stand, one number.
        start_N: first place of each row that counts: what lies before is padding.
        logits_NV: of the last step, float32.
        said_NT: tokens by the place where they stand.
    """

    keys: list[Tensor]
    values: list[Tensor]
    ids_N: Tensor
    position: Tensor
    start_N: Tensor
    logits_NV: Tensor
    said_NT: Tensor

    @classmethod
    def empty(
        cls, config: PreTrainedConfig, rows: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """Room for `capacity` tokens in each of `rows` rows."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        shape = (rows, getattr(config, "num_key_value_heads", None) or heads, capacity, width)
        blocks = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * config.num_hidden_layers)]
        return cls(
            blocks[::2],
            blocks[1::2],
            ids_N=torch.zeros(rows, dtype=torch.long, device=device),
            position=torch.zeros(1, dtype=torch.long, device=device),
            start_N=torch.zeros(rows, dtype=torch.long, device=device),
            logits_NV=torch.zeros(rows, config.vocab_size, dtype=torch.float32, device=device),
            said_NT=torch.zeros(rows, capacity, dtype=torch.long, device=device),
        )

    def fill(self, prefilled: Any, mask_NT: Tensor) -> None:
        """Take over the keys and values of a prompt, padded on the left."""
        length = mask_NT.shape[1]
        for block, layer in enumerate(prefilled.layers):
            self.keys[block][:, :, :length] = layer.keys
            self.values[block][:, :, :length] = layer.values
        self.position.fill_(length)
        self.start_N.copy_(length - mask_NT.sum(-1))

    def take(self, logits_NV: Tensor) -> None:
        """Keep the logits of a step and the likeliest next tokens, and go on one place."""
        self.logits_NV.copy_(logits_NV)
        self.ids_N.copy_(logits_NV.argmax(-1))
        self.position.add_(1)
        self.said_NT.index_copy_(1, self.position, self.ids_N.unsqueeze(-1))
