"""Names of layers, as a reader sees them: a block and a linear in it."""

from collections import Counter
from collections.abc import Iterable, Sequence


def split_layer(name: str) -> tuple[int | None, str]:
    """The block that a layer belongs to and its name there; a layer outside the blocks has no block.

    >>> split_layer("h.3.attn.c_attn")
    (3, 'attn.c_attn')
    >>> split_layer("lm_head")
    (None, 'lm_head')
    """
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.isascii() and part.isdigit():
            return int(part), ".".join(parts[index + 1 :])
    return None, name


def layout(names: Sequence[str]) -> list[tuple[str, str]]:
    """Column and row of each layer: its block and its linear; layers outside the blocks share one column."""
    return [("other" if block is None else str(block), linear) for block, linear in map(split_layer, names)]


def brief(names: Iterable[str]) -> dict[str, str]:
    """Each name with its last component if no other name ends in that, or with all of it.

    >>> brief(["attn.c_attn", "attn.c_proj", "mlp.c_proj"])
    {'attn.c_attn': 'c_attn', 'attn.c_proj': 'attn.c_proj', 'mlp.c_proj': 'mlp.c_proj'}
    """
    distinct = dict.fromkeys(names)
    ends = Counter(name.rpartition(".")[2] for name in distinct)
    return {name: end if ends[end] == 1 else name for name in distinct for end in [name.rpartition(".")[2]]}
