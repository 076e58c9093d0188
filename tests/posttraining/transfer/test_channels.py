"""What weights say of channels, against what inputs are."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.models import blocks_of, weight_view
from switchq.posttraining.ptq import Setting
from switchq.posttraining.ptq.quantise import _sites
from switchq.posttraining.transfer.channels import portrait

Tiny = Callable[..., PreTrainedModel]


def test_gpt2_by_hand(tiny: Tiny, padded: PreTrainedTokenizerFast) -> None:
    model = tiny("gpt2")
    block = model.transformer.h[1]
    torch.nn.init.uniform_(block.ln_1.weight, 0.5, 2)
    found = {site.place.role: site for site in portrait(model, "tiny", padded).sites if site.place.block == 1}
    gain_I, bias_I = block.ln_1.weight.detach(), block.ln_1.bias.detach()
    torch.testing.assert_close(found["attention input"].made_I, (gain_I**2 + bias_I**2).sqrt())
    values_OI, values_O = block.attn.c_attn.weight.detach().T[64:], block.attn.c_attn.bias.detach()[64:]
    mean_O, variance_O = values_OI @ bias_I + values_O, values_OI**2 @ gain_I**2
    torch.testing.assert_close(found["attention output"].made_I, (mean_O**2 + variance_O).sqrt())
    torch.testing.assert_close(found["MLP output"].read_I, block.mlp.c_proj.weight.detach().pow(2).mean(1).sqrt())
    assert [site.place.inputs for site in found.values()] == [32, 32, 32, 128]


def test_after_an_activation_function_against_draws(tiny: Tiny, padded: PreTrainedTokenizerFast) -> None:
    model = tiny("gpt2")
    block = model.transformer.h[0]
    (found,) = (s for s in portrait(model, "t", padded).sites if (s.place.block, s.place.role) == (0, "MLP output"))
    z_NI = torch.randn(40_000, 32)
    x_NO = (z_NI * block.ln_2.weight + block.ln_2.bias) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
    torch.testing.assert_close(found.made_I, x_NO.detach().relu().mean(0), rtol=0.05, atol=0.01)


def test_folding_a_scale_moves_both_as_it_moves_the_input(
    tiny: Tiny, padded: PreTrainedTokenizerFast, architecture: str
) -> None:
    """So that it does not matter which input of a block is scaled first."""
    before = portrait(tiny(architecture), "t", padded)
    model = tiny(architecture)
    sites = [site for block in _sites(model, Setting(group_size=16)) for site in block]
    scales = []
    for site in sites:
        scale_I = site.tied(torch.rand(weight_view(site.linears[0].module).shape[1]) + 0.5)
        scales.append(scale_I if site.folds else torch.ones_like(scale_I))
        site.scale(scale_I)
    after = portrait(model, "t", padded)
    assert len(blocks_of(model)) == after.blocks
    for one, other, scale_I in zip(before.sites, after.sites, scales, strict=True):
        torch.testing.assert_close(other.made_I, one.made_I / scale_I, rtol=1e-4, atol=1e-6)
        if one.place.role in ("attention output", "MLP output"):  # rows of the others are what is divided later
            torch.testing.assert_close(other.read_I, one.read_I * scale_I, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("role", ["attention input", "attention output", "MLP input", "MLP output"])
def test_every_architecture_has_every_role(
    role: str, tiny: Tiny, padded: PreTrainedTokenizerFast, architecture: str
) -> None:
    found = portrait(tiny(architecture), "t", padded)
    assert [site.place.block for site in found.sites if site.place.role == role] == [0, 1]
    assert len({layer for site in found.sites for layer in site.place.layers}) == sum(
        len(site.place.layers) for site in found.sites
    )
