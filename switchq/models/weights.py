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
