"""The door for weights: past it every weight is (out, in), whatever module holds it."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from switchq.errors import UserError


def weight_view(module: nn.Module) -> Tensor:
    """The weight (O, I) of a linear, detached. A Conv1D's (in, out) tensor is seen transposed, not copied, so writing
    into the view writes the module's weight.

    Raises:
        UserError: for any other module.
    """
    if isinstance(module, Conv1D):
        return module.weight.detach().T
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    raise UserError(f"cannot quantise a {type(module).__name__}")


def as_held(module: nn.Module, weight_OI: Tensor) -> Tensor:
    """A weight (O, I) in the layout and dtype that a linear holds its own in; differentiable."""
    held = weight_OI.T if isinstance(module, Conv1D) else weight_OI
    return held.to(module.get_parameter("weight").dtype)
