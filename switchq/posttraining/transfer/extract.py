"""Extraction: AWQ runs on the source model as ever, and what it found at each input is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Method, Setting, quantise
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.statistics import Needs
from switchq.posttraining.ptq.transform import Target, Transform
from switchq.posttraining.ptq.transforms.activation_scale import ActivationScale, power_scale
from switchq.posttraining.ptq.transforms.protect import Protect, most_salient
from switchq.posttraining.transfer.channels import Portrait
from switchq.posttraining.transfer.statistics import Entry, SiteStatistics


@dataclass(frozen=True)
class Observed(Transform):
    """AWQ's scaling, watched.

    Attributes:
        inner: the scaling.
        found: name of an input's first linear -> importance, alpha and scale.
    """

    inner: ActivationScale = field(default_factory=ActivationScale)
    found: dict[str, tuple[Tensor, float, Tensor]] = field(default_factory=dict)

    def needs(self) -> Needs:
        """What the scaling needs."""
        return self.inner.needs()

    def described(self) -> dict[str, Any]:
        """What the scaling says of itself."""
        return self.inner.described()

    def apply(self, site: Site, target: Target) -> None:
        """Let the scaling work, and keep its importance, exponent and scale."""
        importance_I = site.statistics[self.inner.salience].clone()
        self.inner.apply(site, target)
        alpha = float(site.quantised[0].notes["alpha"])
        scale_I = site.tied(power_scale(importance_I, alpha))
        self.found[site.linears[0].name] = (importance_I.cpu(), alpha, scale_I.cpu())


def extract(
    model: PreTrainedModel,
    source: Portrait,
    setting: Setting,
    batches: Sequence[Batch],
    protect: Protect,
    **options: Any,
) -> Entry:
    """The statistics of a model at the setting's width and seed. The model is left quantised.

    Args:
        model: in full precision.
        source: the same without its weights.
        setting: as for any method.
        batches: calibration batches.
        protect: how many channels are protected, and by how much.
        options: those of `quantise`.

    Raises:
        UserError: whatever `quantise` raises.
    """
    observed = Observed()
    made = quantise(model, Method("extract", Nearest(), (observed,)), setting, batches, **options)
    sites = []
    for channels in source.sites:
        if channels.place.layers[0] not in observed.found:
            continue  # left out
        importance_I, alpha, scale_I = observed.found[channels.place.layers[0]]
        protected_K = most_salient(importance_I, protect.share)
        sites.append(SiteStatistics(channels, importance_I, alpha, scale_I, protected_K, protect.factor))
    return Entry(setting.bits, setting.seed, source.blocks, tuple(sites), made.seconds)
