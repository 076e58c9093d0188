"""What the rest of the program has to know of a `transformers` architecture, as data."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

ROLES = ("attention input", "attention output", "MLP input", "MLP output")
"""The inputs that a block of every supported architecture has."""


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
        role: one of `ROLES`: what the input is to the block, whatever the architecture calls the linears.
        through: where nothing can absorb a scale, the linear whose outputs become x by an activation function.
    """

    linears: tuple[str, ...]
    norm: str | None = None
    linear: str | None = None
    first_row: int = 0
    repeats: int = 1
    head_size: int = 0
    role: str = ""
    through: str | None = None


@dataclass(frozen=True)
class Stream:
    """The residual stream: everything that writes to it or reads it, besides the norms that `Input` names.

    Attributes:
        tables: dotted names of embeddings (V, I) whose rows are added to it.
        writers: dotted names of linears outside the blocks whose outputs are added to it.
        block_writers: dotted names inside a block of linears whose outputs are added to it.
        norm: the last norm.
        reader: the linear that reads that norm, often the head.
    """

    tables: tuple[str, ...]
    writers: tuple[str, ...]
    block_writers: tuple[str, ...]
    norm: str
    reader: str


@dataclass(frozen=True)
class Architecture:
    """Names of the parts of a decoder-only model.

    Attributes:
        model_types: the values of `config.model_type` that are built like this.
        blocks: dotted name of the block list, seen from the causal language model.
        linears: dotted names of the linears inside one block, in the order of the forward pass.
        inputs: from a configuration to the inputs that these linears read, in the order of the forward pass.
        stream: from a configuration to the residual stream; None where a norm's output goes on as the stream.
        transposed: whether these are Conv1D modules, whose weight is (in, out).
    """

    model_types: tuple[str, ...]
    blocks: str
    linears: tuple[str, ...]
    inputs: Callable[[PreTrainedConfig], tuple[Input, ...]]
    stream: Callable[[PreTrainedConfig], Stream | None]
    transposed: bool = False

    def linear_names(self, model: nn.Module) -> list[str]:
        """Full dotted names of all block linears, in model order."""
        blocks = model.get_submodule(self.blocks)
        return [f"{self.blocks}.{index}.{linear}" for index in range(len(blocks)) for linear in self.linears]  # type: ignore[arg-type]
