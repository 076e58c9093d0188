"""The order of strategies and controls where transfer must work, and where it cannot."""

import statistics
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.posttraining.calibration import Batch, text_batches
from switchq.posttraining.ptq import Method, Setting, quantise
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.transform import Transform
from switchq.posttraining.ptq.transforms.activation_scale import ActivationScale
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.posttraining.transfer.carried import Carried
from switchq.posttraining.transfer.channels import portrait
from switchq.posttraining.transfer.extract import extract
from switchq.posttraining.transfer.plan import pick_strategies
from switchq.posttraining.transfer.strategies import STRATEGIES, Form

from .conftest import plant

SETTING = Setting(bits=3, group_size=16)

PROTECT = Protect(share=0.125, factor=2.0)

Tiny = Callable[..., PreTrainedModel]


def text(tokenizer: PreTrainedTokenizerFast) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return text_batches([torch.randint(2, 97, (40,), generator=generator).tolist() for _ in range(8)], tokenizer)


def errors(tiny: Tiny, tokenizer: PreTrainedTokenizerFast, form: Form, first: float, last: float) -> dict[str, float]:
    """Mean error of the layers that norms feed, for each way to scale them; source wide 32, target 64.

    The source's large channels are its first eighth, the target's those from `first` to `last`.
    """
    batches = text(tokenizer)

    def target() -> PreTrainedModel:
        return plant(tiny("gpt2", n_embd=64, seed=1), first, last)

    source, last_one = plant(tiny("gpt2"), 0.0, 0.125), portrait(target(), "target", tokenizer)
    entry = extract(source, portrait(source, "source", tokenizer), SETTING, batches, PROTECT, progress=False)
    own: Transform = ActivationScale() if form == "scale" else PROTECT
    ways: dict[str, tuple[Transform, ...]] = {"rtn": (), "own": (own,)}
    for name, strategy in pick_strategies(None, None).items():
        if form in strategy.forms and name != "direct":
            ways[name] = (Carried(strategy, form, entry, (last_one,)),)
    found = {}
    for name, transforms in ways.items():
        made = quantise(target(), Method(name, Nearest(), transforms), SETTING, batches, progress=False)
        of_norms = [layer.error or 0 for layer in made.layers if layer.name.endswith(("c_attn", "c_fc"))]
        found[name] = statistics.fmean(of_norms)
    return found


@pytest.mark.parametrize("form", ["scale", "protect"])
def test_where_large_channels_lie_alike_everything_carried_beats_every_control(
    form: Form, tiny: Tiny, padded: PreTrainedTokenizerFast
) -> None:
    found = errors(tiny, padded, form, 0.0, 0.125)
    controls = min(found[name] for name in ("rtn", "permuted", "random"))
    for name in ("own", "adaptive", "matched", "alpha" if form == "scale" else "ratio"):
        assert found[name] < 0.85 * controls, name
    assert found["rtn"] < min(found["permuted"], found["random"]), "scales in the wrong places do harm"


@pytest.mark.parametrize("form", ["scale", "protect"])
def test_where_they_lie_elsewhere_position_carries_nothing_and_weights_still_do(
    form: Form, tiny: Tiny, padded: PreTrainedTokenizerFast
) -> None:
    found = errors(tiny, padded, form, 0.875, 1.0)
    assert found["adaptive"] >= found["rtn"] > found["own"]
    for name in ("matched", "alpha" if form == "scale" else "ratio"):
        assert found[name] < 0.85 * found["rtn"], name


@pytest.mark.parametrize("form", ["scale", "protect"])
def test_to_itself_direct_transfer_is_own_calibration(
    form: Form, tiny: Tiny, padded: PreTrainedTokenizerFast, architecture: str
) -> None:
    """The same weights to the last bit, whatever absorbs the scales: what is carried is what AWQ found.

    Importance is that of a model which the form `scale` quantises block by block, so that of `protect` is the same in
    the first block only.
    """
    batches, known = text(padded), portrait(tiny(architecture), "itself", padded)
    entry = extract(tiny(architecture), known, SETTING, batches, PROTECT, progress=False)
    own, carried = tiny(architecture), tiny(architecture)
    transform: Transform = ActivationScale() if form == "scale" else PROTECT
    quantise(own, Method("own", Nearest(), (transform,)), SETTING, batches, progress=False)
    moved = Carried(STRATEGIES["direct"], form, entry, (known,))
    made = quantise(carried, Method("moved", Nearest(), (moved,)), SETTING, batches, progress=False)
    assert not any("unmatched" in layer.notes for layer in made.layers)
    layers = [layer.name for layer in made.layers if form == "scale" or ".0." in layer.name]
    assert len(layers) >= 4
    for name in layers:
        assert torch.equal(own.get_submodule(name).weight, carried.get_submodule(name).weight), name
