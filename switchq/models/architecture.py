"""What the rest of the program has to know of a `transformers` architecture, as data."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Input:
    """Linears of a block that read the same tensor x (..., I), and what makes it: who can absorb a scale of x.

    Dividing x by s (I,) and multiplying the linears' columns by it leaves a block's outputs as they are. x is divided
    where it is made: in a norm's gain and bias, or in the rows of an earlier linear if all between is linear or
    positively homogeneous (attention over values, a gate's product, ReLU).

    Attributes:
        linears: dotted names inside the block, in the order of the forward pass.
        norm: the norm whose output is x and nothing else.
        linear: the linear whose outputs `first_row` and following become x.
        first_row: see above.
        repeats: heads that share those outputs (grouped-query attention): x is (..., heads / repeats, repeats,
            `head_size`) and all repeats are scaled alike.
        head_size: see above; 0 where nothing is shared.
    """

    linears: tuple[str, ...]
    norm: str | None = None
    linear: str | None = None
    first_row: int = 0
    repeats: int = 1
    head_size: int = 0


@dataclass(frozen=True)
class Architecture:
    """Names of the parts of a decoder-only model.

    Attributes:
        model_types: the values of `config.model_type` that are built like this.
        blocks: dotted name of the block list, seen from the causal language model.
        linears: dotted names of the linears inside one block, in the order of the forward pass.
        inputs: from a configuration to the inputs that these linears read, in the order of the forward pass.
        transposed: whether these are Conv1D modules, whose weight is (in, out).
    """

    model_types: tuple[str, ...]
    blocks: str
    linears: tuple[str, ...]
    inputs: Callable[[PreTrainedConfig], tuple[Input, ...]]
    transposed: bool = False

    def linear_names(self, model: nn.Module) -> list[str]:
        """Full dotted names of all block linears, in model order."""
        blocks = model.get_submodule(self.blocks)
        return [f"{self.blocks}.{index}.{linear}" for index in range(len(blocks)) for linear in self.linears]  # type: ignore[arg-type]
