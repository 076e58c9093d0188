"""Which input of the source each input of the target takes after: the same component, the nearest relative depth.

Block i of n has the relative depth i / (n - 1), 0 if it is the only one. The component is the input's role (attention
input, attention output, MLP input, MLP output), which is the linear's name within one architecture. Of two source
blocks that are equally near the earlier one is taken; blocks in which the component was left out are not looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from switchq.posttraining.transfer.channels import Channels, Portrait
from switchq.posttraining.transfer.statistics import Entry, SiteStatistics


@dataclass(frozen=True, eq=False)
class Match:
    """An input of the target and what it takes after; None if nothing: its linears fall back to plain rounding.

    Attributes:
        depth: relative depth of the target's block.
        source_depth: of the source's.
    """

    target: Channels
    source: SiteStatistics | None
    depth: float
    source_depth: float | None

    @property
    def pairs(self) -> list[tuple[str, str | None]]:
        """Layers of the target, each with the source's of the same name, or the first that reads the input."""
        if self.source is None:
            return [(name, None) for name in self.target.place.layers]
        layers = self.source.place.layers
        return [
            (name, next((one for one in layers if _inside(one) == _inside(name)), layers[0]))
            for name in self.target.place.layers
        ]


def depth(block: int, blocks: int) -> float:
    """The relative depth of a block, 0 to 1.

    >>> [depth(block, 3) for block in range(3)], depth(0, 1)
    ([0.0, 0.5, 1.0], 0.0)
    """
    return block / (blocks - 1) if blocks > 1 else 0.0


def match(source: Entry, target: Portrait) -> tuple[Match, ...]:
    """A match for each input of the target, in model order."""
    return tuple(_matched(site, depth(site.place.block, target.blocks), source) for site in target.sites)


def unmatched(matches: Sequence[Match]) -> list[str]:
    """The target's layers that nothing is carried to."""
    return [name for one in matches if one.source is None for name in one.target.place.layers]


def _matched(target: Channels, at: float, source: Entry) -> Match:
    candidates = [site for site in source.sites if site.place.role == target.place.role]
    if not candidates:
        return Match(target, None, at, None)
    depths = [depth(site.place.block, source.blocks) for site in candidates]
    nearest = min(range(len(depths)), key=lambda i: (round(abs(depths[i] - at), 9), depths[i]))
    return Match(target, candidates[nearest], at, depths[nearest])


def _inside(name: str) -> str:
    """The name inside the block: what follows the block's number."""
    parts = name.split(".")
    return ".".join(parts[max((i for i, part in enumerate(parts) if part.isdigit()), default=-1) + 1 :])
