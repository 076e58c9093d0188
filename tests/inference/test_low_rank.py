"""Rounded factors against float64, and where they are taken."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from switchq.inference import Exported, SwitchableLM
from switchq.inference.kernels import Integer
from switchq.inference.linear import PackedLinear
from switchq.inference.low_rank import LowRank
from switchq.inference.rounded_low_rank import RoundedLowRank
from switchq.nn import get_switch


@given(tokens=st.integers(1, 9), rank=st.integers(1, 70), outputs=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_nothing_is_lost_but_by_rounding(tokens: int, rank: int, outputs: int, seed: int) -> None:
    """A code loses half a step of a row's largest 127th or a little more, an activation half the largest 32767th."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((tokens, 96), (rank, 96), (rank, outputs), (tokens, outputs))
    single = [torch.randn(shape, generator=generator) for shape in shapes]
    x_NI, low_RI, high_RO, y_NO = (one.double() for one in single)
    exact_NR = x_NI @ low_RI.T
    exact_NO = y_NO + exact_NR @ high_RO
    step_R, step_O = low_RI.abs().amax(1) / 127 * 1.01, high_RO.abs().amax(0) / 127 * 1.01
    off_N1 = 0.51 / 32767 * x_NI.abs().amax(1, keepdim=True)
    lost_NR = 0.5 * x_NI.abs().sum(1, keepdim=True) * step_R + off_N1 * 1.01 * low_RI.abs().sum(1)
    most_NR = exact_NR.abs() + lost_NR
    lost_NR = lost_NR + 0.51 / 32767 * most_NR.amax(1, keepdim=True)
    lost_NO = lost_NR @ (high_RO.abs() + 0.5 * step_O) + 0.5 * most_NR.sum(1, keepdim=True) * step_O
    found_NO = RoundedLowRank(*single[1:3]).added(single[3].clone(), single[0])
    assert ((found_NO - exact_NO).abs() <= 1.02 * lost_NO + 1e-5).all()


@pytest.mark.parametrize("rank", [16, 32, 64, 100])
@pytest.mark.parametrize("tokens", [1, 6])
def test_little_is_lost(rank: int, tokens: int) -> None:
    """By codes of 127 levels on each side: half a percent a factor, evenly spread."""
    x_NI, low_RI, high_RO = torch.randn(tokens, 384), torch.randn(rank, 384), torch.randn(rank, 200)
    zero_NO = torch.zeros(tokens, 200)
    exact_NO = LowRank(low_RI, high_RO).added(zero_NO, x_NI)
    found_NO = RoundedLowRank(low_RI, high_RO).added(zero_NO.clone(), x_NI)
    assert (found_NO - exact_NO).norm() < 0.02 * exact_NO.norm()


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("rank", [1, 16, 50])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_token_in_one_call_gets_what_it_gets_in_three(groups: int, rank: int, with_bias: bool) -> None:
    """Two tokens, which take the three calls, are told apart by the last bits at most."""
    codes_OI = torch.randint(-8, 8, (203, 384)).to(torch.int8)
    params = {name: torch.randn(203, groups).half().float() for name in ("scale", "offset")}
    kernel, low = Integer(codes_OI, params, 4), RoundedLowRank(torch.randn(rank, 384), torch.randn(rank, 203))
    x_NI, bias_O = torch.randn(2, 384), torch.randn(203) if with_bias else None
    single = torch.cat([kernel.layer(x_1I, bias_O, low) for x_1I in x_NI.split(1)])
    torch.testing.assert_close(single, kernel.layer(x_NI, bias_O, low), rtol=1e-5, atol=1e-3)
    assert not torch.allclose(single, kernel.layer(x_NI, bias_O, None), rtol=0, atol=1)


def test_an_adapter_of_another_weight() -> None:
    codes_OI, ones_O1 = torch.zeros(8, 32, dtype=torch.int8), torch.ones(8, 1)
    kernel = Integer(codes_OI, {"scale": ones_O1, "offset": ones_O1}, 4)
    for shapes in (((4, 31), (4, 8)), ((4, 32), (4, 9)), ((4, 32), (5, 8))):
        low = RoundedLowRank(*(torch.ones(shape) for shape in shapes))
        with pytest.raises(ValueError, match=r"are no adapter of a weight \(8, 32\)"):
            kernel.layer(torch.ones(1, 32), None, low)


def test_a_quarter_of_the_bytes() -> None:
    factors = torch.randn(64, 768), torch.randn(64, 3072)
    scales = (2 + 2) * (64 + 3072)  # and offsets
    assert RoundedLowRank(*factors).resident_bytes - scales == LowRank(*factors).resident_bytes // 4


def test_a_row_of_zeros() -> None:
    factors = torch.zeros(16, 32), torch.zeros(16, 8)
    y_NO = torch.randn(1, 8)
    assert torch.equal(RoundedLowRank(*factors).added(y_NO.clone(), torch.randn(1, 32)), y_NO)


@pytest.mark.parametrize(("bits", "kind"), [(8, LowRank), (4, RoundedLowRank), (2, RoundedLowRank)])
def test_where_they_are_taken(
    bits: int, kind: type, trained: Callable[..., PreTrainedModel], export: Callable[..., Exported], tmp_path: Path
) -> None:
    """Not where the weight itself has 8 bits."""
    export(trained(rank={8: 16, 4: 16, 2: 3}), tmp_path / "a")
    lm = SwitchableLM.from_pretrained(tmp_path / "a", bits)
    linear = get_switch(lm.model).layers[0].linear
    assert isinstance(linear, PackedLinear)
    assert type(linear.ready.low) is kind
