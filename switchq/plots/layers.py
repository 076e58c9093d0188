"""Names of layers, as a reader sees them: a block and a linear in it."""

from collections.abc import Sequence


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
