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
    parts: ClassVar[tuple[str, ...]]
    """The tensors of a layer, by what comes after its name and a dot."""
    widths: ClassVar[tuple[int, ...]]
    """The widths that its readers agree on."""
    zero_points: ClassVar[bool]
    """Whether its readers take them."""

    def check(
        self,
        architecture: Architecture,
        shapes: Mapping[str, tuple[int, int]],
        widths: Sequence[int],
        option: str = "--format",
    ) -> None:
        """Refuse what the format cannot hold, before anything is packed.

        Args:
            architecture: of the model.
            shapes: name -> (O, I) of the layers to pack.
            widths: their widths.
            option: what the user chose the format with, for messages.

        Raises:
            UserError: naming what to choose.
        """
        self.check_model(architecture, shapes, option)
        if not widths:
            raise UserError(f"{option} {self.name} is for packed layers, and this bitmap has none: choose {option} hf")
        if wrong := sorted(set(widths) - set(self.widths)):
            held = ", ".join(map(str, sorted(self.widths, reverse=True)))
            raise UserError(f"{option} {self.name} has no {wrong[0]} bits: choose {held} (16 is not packed)")

    @abstractmethod
    def check_model(self, architecture: Architecture, shapes: Mapping[str, tuple[int, int]], option: str) -> None:
        """What `check` refuses at any width; arguments as there."""

    @abstractmethod
    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """The tensors of a layer, one for each of `parts`."""

    @abstractmethod
    def read(self, parts: Mapping[str, Tensor], bits: int, symmetric: bool) -> Coded:
        """The inverse of `tensors`.

        Raises:
            KeyError, ValueError: tensors that are missing, or do not fit each other.
        """

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
