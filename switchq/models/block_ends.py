"""What a batch is at the two ends of a block, and how far the block is from giving what it should.

A block that was rounded is given what the rounded blocks before it give out, x~, and is to give what the float model
has behind it:

    E = mean over real tokens of |block~(x~) - block(x)|^2 / |x~|^2

with x the float model's input of the block. Many models have a block that makes the first token of a text a hundred
times longer than the others, until one far behind it takes that back (Sun et al. 2024, arXiv:2402.17762). What rounding
that block does to this token would be nearly all of a plain mean in every block between the two, which can do nothing
about it; in the length that a token comes in with, only its own block sees it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

LEAST = 1e-6
"""Added to a token's mean square before it divides, as in a norm: a token of zeros divides by something."""


@dataclass(frozen=True, eq=False)
class Ends:
    """A batch at the two ends of a block.

    Attributes:
        input_BTI: x~, or x where the float model's inputs are taken.
        wanted_BTI: the float model's output of the block.
        rest: what else the block's `forward` is called with, by position.
        options: and by name.
        real_N: flattened positions of real tokens.
    """

    input_BTI: Tensor
    wanted_BTI: Tensor
    rest: tuple[Any, ...]
    options: dict[str, Any]
    real_N: Tensor

    def error(self, block: Callable[..., Tensor], device: torch.device) -> Tensor:
        """E of this batch, a float32 scalar, differentiable in what `block` computes with.

        Args:
            block: the rounded block's forward; on a GPU its products are taken of bfloat16.
            device: where it runs; what is held here may wait elsewhere.
        """
        input_BTI, wanted_BTI = self.input_BTI.to(device), self.wanted_BTI.to(device)
        with _fast(device):
            output_BTI = block(input_BTI, *self.rest, **self.options)
        output_NI, wanted_NI, input_NI = (
            one_BTI.flatten(0, -2).index_select(0, self.real_N).float()
            for one_BTI in (output_BTI, wanted_BTI, input_BTI)
        )
        return ((output_NI - wanted_NI).square().mean(-1) / (input_NI.square().mean(-1) + LEAST)).mean()


def in_turn(count: int, seed: int = 0) -> Iterator[int]:
    """Places of `count` batches without end, in a new order each time through."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


@contextmanager
def _fast(device: torch.device) -> Iterator[None]:
    """On a GPU products are of bfloat16, and attention is the one whose gradient is the same each time."""
    if device.type != "cuda":
        yield
        return
    with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield
