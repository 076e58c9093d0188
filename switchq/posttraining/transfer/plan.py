"""The runs of a transfer: what is compared with the target's own calibration, at every width and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from switchq.bitmap import FULL
from switchq.errors import UserError
from switchq.posttraining.ptq import Method, Setting
from switchq.posttraining.ptq.plan import Run
from switchq.posttraining.ptq.results import FULL_PRECISION
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.transform import Transform
from switchq.posttraining.ptq.transforms.activation_scale import ActivationScale
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.posttraining.transfer.carried import Carried
from switchq.posttraining.transfer.channels import Portrait
from switchq.posttraining.transfer.statistics import SourceStatistics
from switchq.posttraining.transfer.strategies import CONTROLS, STRATEGIES, Form, Strategy

OWN, RTN = "own", "rtn"


@dataclass(frozen=True)
class Comparison:
    """What is run.

    Attributes:
        setting: the common ground, calibration text included; width and seed are filled in run by run.
        bits: the widths.
        seeds: of the calibration, and of what is drawn.
        forms: of AWQ.
        strategies: by name; controls among them.
        protect: share and factor of the form `protect`.
    """

    setting: Setting
    bits: tuple[int, ...]
    seeds: tuple[int, ...]
    forms: tuple[Form, ...]
    strategies: Mapping[str, Strategy]
    protect: Protect

    def settings(self) -> list[Setting]:
        """One for each width and seed."""
        return [replace(self.setting, bits=bits, seed=seed) for bits in self.bits for seed in self.seeds]

    def own_runs(self) -> list[Run]:
        """A model in full precision and with AWQ's scales from its own calibration."""
        own: dict[Form, Transform] = {"scale": ActivationScale(), "protect": self.protect}
        runs = [Run(FULL_PRECISION, FULL)]
        return runs + [_run(OWN, form, setting, own[form]) for setting in self.settings() for form in self.forms]

    def target_runs(self, statistics: SourceStatistics, chain: Sequence[Portrait]) -> list[Run]:
        """The same for the target, plain rounding, and all that is carried to it."""
        runs = self.own_runs()
        for bits in self.bits:
            setting = replace(self.setting, bits=bits, seed=self.seeds[0])
            runs.append(Run(RTN, bits, setting, Method(RTN, Nearest())))
        for setting in self.settings():
            entry = statistics.entry(setting.bits, setting.seed)
            for form in self.forms:
                for name, strategy in self.strategies.items():
                    if form in strategy.forms:
                        carried = Carried(strategy, form, entry, tuple(chain), setting.seed)
                        runs.append(_run(name, form, setting, carried))
        return runs


def _run(name: str, form: Form, setting: Setting, transform: Transform) -> Run:
    title = title_of(name, form)
    return Run(title, setting.bits, setting, Method(title, Nearest(), (transform,)))


def title_of(name: str, form: Form) -> str:
    """What records call a strategy in a form."""
    return f"{name} ({form})"


def left_out(comparison: Comparison, source: Portrait, chain: Sequence[Portrait]) -> dict[str, str]:
    """The strategies that have none of the forms or cannot carry anything along a chain of models, and why."""
    models, found = [source, *chain], {}
    for name, strategy in comparison.strategies.items():
        if not set(strategy.forms) & set(comparison.forms):
            found[name] = f"has no form {', '.join(comparison.forms)}"
            continue
        for one, other in zip(models, models[1:]):
            pairs = {
                (site.place.inputs, to.place.inputs)
                for site in one.sites
                for to in other.sites
                if site.place.role == to.place.role
            }
            if not any(strategy.fits(*pair) for pair in pairs):
                widths = " and ".join(f"{given} against {wanted}" for given, wanted in sorted(pairs))
                found[name] = f"needs inputs of equal dimensions, and {one.name} and {other.name} have {widths}"
                break
    return found


def pick_strategies(strategies: Sequence[str] | None, controls: Sequence[str] | None) -> dict[str, Strategy]:
    """Strategies and controls by name, all by default.

    Raises:
        UserError: an unknown name.
    """
    found: dict[str, Strategy] = {}
    for what, names, known in (("strategy", strategies, STRATEGIES), ("control", controls, CONTROLS)):
        for name in known if names is None else names:
            if name not in known:
                raise UserError(f"there is no {what} {name!r}; there are {', '.join(known)}")
            found[name] = known[name]
    return found
