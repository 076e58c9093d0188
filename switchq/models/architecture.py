"""What the rest of the program has to know of a `transformers` architecture, as data."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """Names of the parts of a decoder-only model.

    Attributes:
        model_types: the values of `config.model_type` that are built like this.
        blocks: dotted name of the block list, seen from the causal language model.
        linears: dotted names of the linears inside one block, in the order of the forward pass.
        transposed: whether these are Conv1D modules, whose weight is (in, out).
    """

    model_types: tuple[str, ...]
    blocks: str
    linears: tuple[str, ...]
    transposed: bool = False

    def linear_names(self, model: nn.Module) -> list[str]:
        """Full dotted names of all block linears, in model order."""
        blocks = model.get_submodule(self.blocks)
        return [f"{self.blocks}.{index}.{linear}" for index in range(len(blocks)) for linear in self.linears]  # type: ignore[arg-type]
