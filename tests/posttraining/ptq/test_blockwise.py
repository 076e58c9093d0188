"""The error of a block: by hand, and the same however long a token comes in."""

import pytest
import torch
from torch import Tensor, nn

from switchq.models.block_ends import Ends
from switchq.posttraining.ptq.blockwise import Block
from switchq.posttraining.ptq.site import Linear


class Straight(nn.Module):
    """A block that multiplies with one weight."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False)
        self.inner.weight = nn.Parameter(weight_OI)

    def forward(self, x_BTI: Tensor) -> Tensor:
        result: Tensor = self.inner(x_BTI)
        return result


@pytest.fixture
def weight_OI() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def x_BTI() -> Tensor:
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))


def error(x_BTI: Tensor, weight_OI: Tensor, tried_OI: Tensor, real_N: Tensor) -> Tensor:
    """Of the block with another weight, for inputs that the blocks before it left alone."""
    module = Straight(weight_OI)
    ends = Ends(x_BTI, x_BTI @ weight_OI.T, (), {}, real_N)
    return Block(module, [Linear("inner", module.inner)], [ends]).error(ends, [tried_OI])


def test_the_mean_over_real_tokens_by_hand(x_BTI: Tensor, weight_OI: Tensor) -> None:
    tried_OI, real = weight_OI + 0.1 * weight_OI.flip(0), [0, 1, 2, 4, 5]
    tokens = [x_BTI.flatten(0, 1)[place] for place in real]
    off = [float((tried_OI @ x_I - weight_OI @ x_I).norm() / x_I.norm()) ** 2 * 5 / 6 for x_I in tokens]
    found = error(x_BTI, weight_OI, tried_OI, torch.tensor(real))
    assert float(found) == pytest.approx(sum(off) / len(off), rel=1e-4)


def test_a_long_token_counts_as_any_other(x_BTI: Tensor, weight_OI: Tensor) -> None:
    """In its error and in the direction that it pulls the weight to."""
    gradients, errors, real_N = [], [], torch.arange(8)
    for size in (1.0, 1000.0):
        scaled_BTI = x_BTI.clone()
        scaled_BTI[:, 0] *= size
        tried_OI = (weight_OI + 0.1 * weight_OI.flip(0)).detach().requires_grad_()
        errors.append(error(scaled_BTI, weight_OI, tried_OI, real_N))
        gradients.append(torch.autograd.grad(errors[-1], tried_OI)[0])
    torch.testing.assert_close(*errors, rtol=1e-4, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_a_token_of_zeros_divides_by_something(x_BTI: Tensor, weight_OI: Tensor) -> None:
    x_BTI[:, 0] = 0
    assert torch.isfinite(error(x_BTI, weight_OI, weight_OI * 1.1, torch.arange(8)))
