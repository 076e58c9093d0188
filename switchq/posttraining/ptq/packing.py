"""The codes of a run, kept for a folder in a packed format instead of rounded weights as floats.

A format holds (code - zero) x scale with whole zero points, of every weight of a linear, and nothing else. What a
method does beyond that is refused: uneven levels, fractional zero points, channels at 16 bits, and weights that are
rounded in other coordinates than those that they are multiplied in.
"""

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from switchq.errors import UserError
from switchq.inference.formats import PACKERS
from switchq.inference.formats.coded import Coded, coded
from switchq.inference.formats.packer import Packer
from switchq.models import architecture_of, weight_view
from switchq.posttraining.ptq.method import Method
from switchq.posttraining.ptq.rounder import Rounded
from switchq.posttraining.ptq.setting import Setting
from switchq.posttraining.ptq.site import Linear
from switchq.quant import Symmetric

OPTION = "--save_format"


@dataclass
class Packing:
    """The packed linears of a model that is being quantised.

    Args:
        format: `compressed-tensors` or `gptq`.

    Attributes:
        layers: the codes by the linear's name, in the order in which they were rounded.
    """

    format: str
    layers: dict[str, Coded] = field(default_factory=dict)

    @property
    def packer(self) -> Packer:
        """The format."""
        return PACKERS[self.format]

    @property
    def symmetric(self) -> bool:
        """Whether the levels have no zero points, once there are layers."""
        return all(layer.symmetric for layer in self.layers.values())

    def check(self, model: PreTrainedModel, method: Method, setting: Setting) -> None:
        """What can be told before anything is rounded.

        Raises:
            UserError: a method or a model that the format cannot hold.
        """
        grid, architecture = method.grid_for(setting), architecture_of(model.config)
        if not grid.integer_levels:
            raise UserError(f"the levels of {method.name} are uneven, which {self._holds_not}")
        if not self.packer.zero_points and not isinstance(grid, Symmetric):
            raise UserError(
                f"{method.name} has zero points, and {OPTION} {self.format} is read without them only: give "
                f"--symmetric true, or choose {OPTION} gptq or hf"
            )
        if not method.rounder.whole_zeros and not isinstance(grid, Symmetric):
            raise UserError(f"{method.name} has fractional zero points, which {self._holds_not}")
        names = setting.quantised(architecture.linear_names(model))
        views = {name: weight_view(model.get_submodule(name)) for name in names}
        shapes = {name: (view_OI.shape[0], view_OI.shape[1]) for name, view_OI in views.items()}
        self.packer.check(architecture, shapes, [setting.bits], OPTION)

    def keep(self, linear: Linear, rounded: Rounded) -> None:
        """Take the codes of a linear.

        Raises:
            UserError: it is more than codes, scales and whole zero points.
        """
        zero_OG = rounded.params.get("zero")
        if linear.bases:
            raise UserError(f"{linear.name} has codes and a change of its input, which {self._holds_not}")
        if linear.kept_O is not None:
            raise UserError(f"{linear.name} has channels at 16 bits, which {self._holds_not}")
        if zero_OG is not None and not torch.equal(zero_OG, zero_OG.round()):
            raise UserError(f"{linear.name} has fractional zero points, which {self._holds_not}")
        params = {name: value.cpu() for name, value in rounded.params.items()}
        self.layers[linear.name] = coded(rounded.grid, rounded.codes_OI.cpu(), params, rounded.bits)

    @property
    def _holds_not(self) -> str:
        return f"{OPTION} {self.format} cannot hold: choose {OPTION} hf"
