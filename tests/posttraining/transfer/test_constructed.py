"""The order of strategies and controls where transfer must work, and where it cannot."""

import statistics
from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.posttraining.calibration import Batch, text_batches
from switchq.posttraining.ptq import Method, Setting, quantise
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.transforms.activation_scale import ActivationScale
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.posttraining.transfer.carried import Carried
from switchq.posttraining.transfer.channels import portrait
from switchq.posttraining.transfer.extract import extract
from switchq.posttraining.transfer.plan import pick_strategies
from switchq.posttraining.transfer.strategies import Form

from .conftest import plant

SETTING = Setting(bits=3, group_size=16)

PROTECT = Protect(share=0.125, factor=2.0)

Tiny = Callable[..., PreTrainedModel]


def errors(tiny: Tiny, tokenizer: PreTrainedTokenizerFast, form: Form, at: tuple[float, float]) -> dict[str, float]:
    """Mean error of the layers that norms feed, for each way to scale them; source wide 32, target 64.

    The source's large channels are its first eighth, the target's where `at` says.
    """
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, 97, (40,), generator=generator).tolist() for _ in range(8)]
    batches: list[Batch] = text_batches(ids, _padded(tokenizer))

    def target() -> PreTrainedModel:
        return plant(tiny("gpt2", n_embd=64, seed=1), *at)

    source = plant(tiny("gpt2"), 0.0, 0.125)
    known = portrait(source, "source", tokenizer)
    entry = extract(source, known, SETTING, batches, PROTECT, progress=False)
    last = portrait(target(), "target", tokenizer)
    ways = {"rtn": (), "own": (ActivationScale() if form == "scale" else PROTECT,)} | {
        name: (Carried(one, form, entry, (last,)),)
        for name, one in pick_strategies(None, None).items()
        if form in one.forms and name != "direct"
    }
    found = {}
    for name, transforms in ways.items():
        made = quantise(target(), Method(name, Nearest(), transforms), SETTING, batches, progress=False)
        of_norms = [layer.error or 0 for layer in made.layers if layer.name.endswith(("c_attn", "c_fc"))]
        found[name] = statistics.fmean(of_norms)
    return found
def _padded(t): 
    import copy
    t=copy.deepcopy(t); t.pad_token=t.eos_token; return t
