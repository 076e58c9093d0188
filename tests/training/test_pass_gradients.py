"""Gradients of single passes: what is put back, what balancing makes of it, and what is said of it."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from workshop import Gradients, Workshop, assert_same

from switchq.errors import UserError
from switchq.nn import set_bitmap
from switchq.training.callbacks import Cyclic, SPNet
from switchq.training.module import SwitchableModule
from switchq.training.pass_gradients import PassGradients

from .test_module import autograd, step_once

PAIR = ["8", "2"]
SHARED = {"shared_rank": 3}


def alone(module: SwitchableModule, batch: dict[str, Tensor], bitmap: str) -> dict[str, Tensor]:
    """What a pass at `bitmap` adds to the gradients of a step of two."""
    set_bitmap(module.model, bitmap)
    return autograd(module, module.model(**batch).loss / 2)


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([one.flatten() for name, one in gradients.items() if ".shared" in name])


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"train_base": True}], ids=str)
def test_looking_at_gradients_leaves_them_as_they_are(workshop: Workshop, tmp_path: Path, options: dict) -> None:
    watched, unwatched = Gradients(), Gradients()
    for watch, every in ((watched, 1), (unwatched, 1000)):
        module = workshop.module(**SHARED, **options)
        workshop.fit(SPNet(), tmp_path / str(every), 2, module, callbacks=[watch], log_every_n_steps=every)
    for one, other in zip(watched.steps, unwatched.steps, strict=True):
        assert_same(one, other)


def test_balanced_passes_have_the_same_norm_on_what_they_share(workshop: Workshop, tmp_path: Path) -> None:
    module = workshop.module(**SHARED, balance=True)
    before, _, gradients, batches, logged = step_once(workshop, SPNet(PAIR), tmp_path, module)
    wide, narrow = (alone(before, batches.seen[0], bitmap) for bitmap in PAIR)
    norms = flat(wide).norm(), flat(narrow).norm()
    assert abs(norms[1] / norms[0] - 1) > 0.01  # or balancing would have nothing to do
    mean = sum(norms) / 2
    expected = {
        name: one * mean / norms[0] + narrow[name] * mean / norms[1] if ".shared" in name else one
        for name, one in (narrow | wide).items()
    }
    assert_same(gradients.steps[0], {name: expected[name] for name in gradients.steps[0]}, exact=False)
    assert logged.rows[0]["gradient cosine/8 and 2"] == pytest.approx(
        float(F.cosine_similarity(flat(wide), flat(narrow), dim=0)), rel=1e-4
    )


def test_mixed_precision_leaves_products_of_gradients_in_float32() -> None:
    parameters = [torch.zeros(30, 20), torch.zeros(7)]
    gradients = [[scale * torch.randn_like(one) for one in parameters] for scale in (1.0, 5.0)]
    collected = PassGradients(parameters, lambda tensors: tensors)
    with torch.autocast("cpu", torch.bfloat16):
        for label, own in zip(PAIR, gradients):
            with collected.of(label, 0.5):
                for parameter, gradient in zip(parameters, own):
                    parameter.grad = gradient.clone()
        logs = collected.merge(balance=True)
    wide, narrow = (torch.cat([one.flatten() for one in own]) for own in gradients)
    torch.testing.assert_close(logs["gradient cosine/8 and 2"], F.cosine_similarity(wide, narrow, dim=0))
    mean = (wide.norm() + narrow.norm()) / 2
    expected = mean * (wide / wide.norm() + narrow / narrow.norm())
    torch.testing.assert_close(torch.cat([one.grad.flatten() for one in parameters]), expected)


@pytest.mark.parametrize("mode", ["turns", "each"])
def test_steps_of_one_pass_have_nothing_to_balance(
    workshop: Workshop, tmp_path: Path, mode: Literal["turns", "each"]
) -> None:
    with pytest.raises(UserError, match="nothing to balance"):
        workshop.fit(Cyclic(mode, PAIR), tmp_path, 1, workshop.module(balance=True, **SHARED))
