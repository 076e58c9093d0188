"""What a format of packed weights is: which models it holds, and its tensors and configuration."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from switchq.errors import UserError
from switchq.inference.formats.coded import Coded
from switchq.models.architecture import Architecture


class Packer(ABC):
    """Base class of the formats."""

    name: ClassVar[str]
    widths: ClassVar[tuple[int, ...]]
    """The widths that its readers agree on."""
    zero_points: ClassVar[bool]
    """Whether its readers take them."""

    def check(self, architecture: Architecture, shapes: Mapping[str, tuple[int, int]], widths: Sequence[int]) -> None:
        """Refuse what the format cannot hold, before anything is packed.

        Args:
            architecture: of the model.
            shapes: name -> (O, I) of the layers to pack.
            widths: their widths.

        Raises:
            UserError: naming what to choose.
        """
        if not widths:
            raise UserError(f"--format {self.name} is for packed layers, and this bitmap has none: choose --format hf")
        if wrong := sorted(set(widths) - set(self.widths)):
            held = ", ".join(map(str, sorted(self.widths, reverse=True)))
            raise UserError(f"--format {self.name} has no {wrong[0]} bits: choose {held} (16 is not packed)")

    @abstractmethod
    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """The tensors of a layer, by what comes after its name and a dot."""

    @abstractmethod
    def config(self, layers: Mapping[str, Coded], floats: Sequence[str]) -> dict[str, Any]:
        """The entry `quantization_config` of config.json.

        Args:
            layers: the packed layers, in model order.
            floats: names of all other linears.
        """

    def files(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """JSON files that readers want beside config.json: name -> content."""
        return {}
