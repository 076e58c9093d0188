"""Statistics of one model at work on another: as a transform of its sites, or as statistics to be carried further."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from switchq.models import weight_view
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.transform import Target, Transform
from switchq.posttraining.ptq.transforms.activation_scale import power_scale
from switchq.posttraining.ptq.transforms.protect import most_salient, protect
from switchq.posttraining.transfer.channels import Portrait
from switchq.posttraining.transfer.matching import Match, match
from switchq.posttraining.transfer.statistics import Entry, SiteStatistics
from switchq.posttraining.transfer.strategies import Form, Strategy


def carry(source: Entry, target: Portrait, strategy: Strategy, seed: int = 0) -> Entry:
    """The statistics that a strategy gives a target, as if they were its own. Inputs that it cannot serve are missing.

    Args:
        source: of a model that was calibrated, or of one that they were carried to before.
        target: the model without its weights.
        strategy: how importance moves; alpha, protect ratio and factor stay as they are.
        seed: of whatever is drawn.
    """
    found = [_carried(one, number, strategy, seed) for number, one in enumerate(match(source, target))]
    return Entry(source.bits, source.seed, target.blocks, tuple(one for one in found if one is not None))


def carry_on(source: Entry, targets: Sequence[Portrait], strategy: Strategy, seed: int = 0) -> Entry:
    """`carry` along a chain of models, each taking after the one before it."""
    for target in targets:
        source = carry(source, target, strategy, seed)
    return source


def _carried(one: Match, number: int, strategy: Strategy, seed: int) -> SiteStatistics | None:
    source = one.source
    if source is None or not strategy.fits(source.place.inputs, one.target.place.inputs):
        return None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    importance_I = strategy.importance(source, one.target, generator)
    return SiteStatistics(
        channels=one.target,
        importance_I=importance_I,
        alpha=source.alpha,
        scale_I=power_scale(importance_I, source.alpha),
        protected_K=most_salient(importance_I, source.protect_ratio),
        factor=source.factor,
    )


@dataclass(frozen=True, eq=False)
class Carried(Transform):
    """Scales from statistics that were carried here. It looks at no text.

    Args:
        strategy: how.
        form: `scale` or `protect`.
        source: the statistics of the source model.
        chain: the models that they go to, this one last.
        seed: of whatever is drawn.
    """

    strategy: Strategy
    form: Form
    source: Entry
    chain: tuple[Portrait, ...]
    seed: int = 0

    def described(self) -> dict[str, Any]:
        """Hashes in place of tensors."""
        return {
            "strategy": type(self.strategy).__name__,
            "options": asdict(self.strategy),
            "form": self.form,
            "statistics_sha256": self.source.sha256,
            "chain": [model.sha256 for model in self.chain],
            "seed": self.seed,
        }

    def apply(self, site: Site, target: Target) -> None:
        """Scale the site; one that nothing was carried to stays as it is."""
        found = self._found(site)
        if found is None:
            for linear in site.quantised:
                linear.notes["unmatched"] = True
            return
        device = weight_view(site.linears[0].module).device
        if self.form == "protect":
            protect(site, found.protected_K.to(device), found.factor)
        elif found.alpha > 0:
            site.scale(site.tied(found.scale_I.to(device)))
        for linear in site.quantised:
            linear.notes["alpha" if self.form == "scale" else "protected"] = (
                found.alpha if self.form == "scale" else len(found.protected_K)
            )

    def _found(self, site: Site) -> SiteStatistics | None:
        """What is carried to a site, worked out when it is needed so that its time counts."""
        *before, last = self.chain
        source = carry_on(self.source, before, self.strategy, self.seed)
        for number, one in enumerate(match(source, last)):
            if one.target.place.layers[0] == site.linears[0].name:
                return _carried(one, number, self.strategy, self.seed)
        return None
