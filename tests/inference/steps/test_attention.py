"""Attention of one token in machine code against PyTorch's own, in float64 and in its place."""

from dataclasses import replace
from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig

from switchq.inference.kernels.machine import attention
from switchq.inference.kernels.machine.rows import LANES
from switchq.inference.steps import attention as module
from switchq.inference.steps.attention import Attention, attends
from switchq.inference.steps.cache import Cache

ROWS, CAPACITY = 3, 24


def can_be_made() -> bool:
    """Whether LLVM makes code here, right or wrong."""
    try:
        attention(LANES)
    except RuntimeError:
        return False
    return True


needs_code = pytest.mark.skipif(not can_be_made(), reason="machine code cannot be made here")


def filled(rows: int, heads: int, width: int, position: int, dtype: torch.dtype = torch.float32) -> Cache:
    """A cache of one block at a position, with numbers everywhere and some padding."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=heads * width, num_attention_heads=heads, num_key_value_heads=heads,
        num_hidden_layers=1, head_dim=width,
    )  # fmt: skip
    cache = Cache.empty(config, rows, CAPACITY, torch.device("cpu"), dtype)
    for held in (*cache.keys, *cache.values):
        held.normal_()
    cache.position.fill_(position)
    cache.start_N.copy_(torch.randint(0, position + 1, (rows,)))
    return cache


def exact(cache: Cache, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
    """What comes of it, in float64."""
    position, shared = int(cache.position), q_NHD.shape[1] // k_NHD.shape[1]
    keys_NHTD, values_NHTD = (one[0][:, :, : position + 1].double().clone() for one in (cache.keys, cache.values))
    keys_NHTD[:, :, position], values_NHTD[:, :, position] = k_NHD.double(), v_NHD.double()
    keys_NHTD, values_NHTD = (one.repeat_interleave(shared, 1) for one in (keys_NHTD, values_NHTD))
    scores_NHT = torch.einsum("nhd,nhtd->nht", q_NHD.double(), keys_NHTD) / q_NHD.shape[2] ** 0.5
    scores_NHT.masked_fill_(torch.arange(position + 1) < cache.start_N[:, None, None], float("-inf"))
    return torch.einsum("nht,nhtd->nhd", scores_NHT.softmax(-1), values_NHTD).flatten(1)


@needs_code
def test_the_trial_is_passed() -> None:
    assert attends()


@needs_code
@given(
    rows=st.integers(1, 3),
    heads=st.integers(1, 3),
    shared=st.integers(1, 3),
    width=st.sampled_from([8, 16, 24, 64, 72, 128]),
    position=st.integers(0, CAPACITY - 1),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_same_as_in_float64(
    rows: int, heads: int, shared: int, width: int, position: int, size: float, seed: int
) -> None:
    """Some padding, queries that share a key, scores that differ by thousands; nothing else of the cache changes."""
    torch.manual_seed(seed)
    cache = filled(rows, heads, width, position)
    before = [one[0].clone() for one in (cache.keys, cache.values)]
    q_NHD = size * torch.randn(rows, heads * shared, width)
    k_NHD, v_NHD = size * torch.randn(rows, heads, width), torch.randn(rows, heads, width)
    expected_NI = exact(cache, q_NHD, k_NHD, v_NHD)
    attend = Attention(cache)
    assert attend.call is not None
    torch.testing.assert_close(
        attend(0, q_NHD, k_NHD, v_NHD).double(), expected_NI, rtol=1e-5, atol=2e-6 * (1 + size**2)
    )
    for held, old, new in zip((cache.keys[0], cache.values[0]), before, (k_NHD, v_NHD), strict=True):
        old[:, :, position] = new
        assert torch.equal(held, old)


def attended(cache: Cache, *given: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and keys and values with the new ones; the given cache is left alone."""
    own = replace(cache, keys=[cache.keys[0].clone()], values=[cache.values[0].clone()])
    attend = Attention(own, compiled)
    if compiled:
        assert attend.call is not None
        attend.scores.fill_(float("nan"))
    out_NI = attend(0, *given)
    if compiled:  # each part has had room of its own
        room = attend.scores.view(len(out_NI), cache.keys[0].shape[1], CAPACITY + LANES)
        assert room[:, :, int(cache.position)].isfinite().all()
    return out_NI, own.keys[0], own.values[0]


@needs_code
def test_it_takes_parts_of_one_product_and_turned_and_narrow_ones() -> None:
    """Queries, keys and values side by side, as GPT-2 has them, laid out the other way, and of another type."""
    cache = filled(ROWS, 2, 16, 9)
    parts = [one.bfloat16().float() for one in torch.randn(ROWS, 3, 2, 16).unbind(1)]
    usual = attended(cache, *parts, compiled=False)
    turned = [one.transpose(1, 2).contiguous().transpose(1, 2) for one in parts]
    for ways in (torch.stack(parts, 1).unbind(1), turned, [one.bfloat16() for one in parts]):
        for one, other in zip(attended(cache, *ways), usual, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@needs_code
@pytest.mark.parametrize("pool", [True, False])
def test_threads_share_the_heads(pool: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one does it all where no pool is."""
    cache = filled(ROWS, 3, 32, 20)
    given = torch.randn(ROWS, 6, 32), torch.randn(ROWS, 3, 32), torch.randn(ROWS, 3, 32)
    assert Attention(cache).threads == 1
    alone = attended(cache, *given)
    if not pool:
        monkeypatch.setattr("switchq.inference.kernels.machine.threads.shares_threads", lambda: False)
        monkeypatch.setattr(module, "attention", attention.__wrapped__)
    monkeypatch.setattr("switchq.inference.kernels.machine.threads.ENOUGH", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert Attention(cache).threads == 4
    for one, other in zip(attended(cache, *given), alone, strict=True):
        assert torch.equal(one, other)


@needs_code
def test_small_shares_count() -> None:
    """Scores of 0 and -60: e^-60 is 8.8e-27, and the second value 1e20."""
    cache = filled(1, 1, 8, 1)
    cache.start_N.zero_()
    key_11D = torch.zeros(1, 1, 8)
    key_11D[..., 0] = -60 * 8**0.5
    cache.keys[0][:, :, 0], cache.values[0][:, :, 0] = 0, 0
    query_11D = torch.zeros(1, 1, 8)
    query_11D[..., 0] = 1
    out_1I, _, _ = attended(cache, query_11D, key_11D, torch.full((1, 1, 8), 1e20))
    torch.testing.assert_close(out_1I, torch.full((1, 8), 1e20 * exp(-60)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_full_cache_is_refused(compiled: bool) -> None:
    """Machine code would write beyond it."""
    with pytest.raises(IndexError, match="a cache of 24 places has none of number 24"):
        Attention(replace(filled(1, 1, 8, 3), position=torch.tensor([CAPACITY])), compiled)


@needs_code
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen(bad: float) -> None:
    """In the row and head that has it, and in no other."""
    cache = filled(2, 2, 8, 5)
    cache.start_N.zero_()
    cache.keys[0][1, 0, 3, 2] = bad
    out_NHD = Attention(cache)(0, torch.rand(2, 2, 8), torch.rand(2, 2, 8), torch.rand(2, 2, 8)).view(2, 2, 8)
    assert out_NHD[1, 0].isnan().all()
    assert out_NHD[0].isfinite().all()
    assert out_NHD[1, 1].isfinite().all()


@pytest.mark.parametrize(("width", "dtype"), [(12, torch.float32), (16, torch.float64), (16, torch.bfloat16)], ids=str)
def test_what_machine_code_does_not_know_runs_in_pytorch(width: int, dtype: torch.dtype) -> None:
    cache = filled(ROWS, 2, width, 7, dtype)
    given = [torch.randn(ROWS, 2, width, dtype=dtype) for _ in range(3)]
    expected_NI = exact(cache, *given)
    attend = Attention(cache)
    assert attend.call is None
    assert F.cosine_similarity(attend(0, *given).double(), expected_NI).min() > 0.999
