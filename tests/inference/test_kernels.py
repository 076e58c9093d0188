"""Packed products against the decoded weight in float64."""

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from switchq.bitmap import WIDTHS
from switchq.errors import UserError
from switchq.inference.kernels import Integer, Plain, choose, integer_products
from switchq.inference.kernels.machine import pairs, product
from switchq.inference.kernels.packing import Layout
from switchq.quant import Nested, Params

OUTPUTS, INPUTS = 48, 256


def coded(bits: int, group_size: int | None, seed: int = 0) -> tuple[Nested, Tensor, Params]:
    grid = Nested(group_size)
    weight_OI = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed))
    params = grid.fit(weight_OI, bits)
    return grid, grid.encode(weight_OI, params, bits).to(torch.int8), params


def drawn(bits: int, shape: tuple[int, int], groups: int, seed: int) -> tuple[Tensor, Params]:
    """Codes over their whole range, and scales and offsets that float16 holds."""
    generator, lowest = torch.Generator().manual_seed(seed), 2 ** (bits - 1)
    codes_OI = torch.randint(-lowest, lowest, shape, generator=generator, dtype=torch.int8)
    levels = {name: torch.randn(shape[0], groups, generator=generator).half().float() for name in ("scale", "offset")}
    return codes_OI, levels


def largest(bits: int) -> float:
    return 32767.0 if bits > 4 else 32639.0


def check(
    codes_OI: Tensor, params: Params, bits: int, x_NI: Tensor, y_NO: Tensor, bias_O: Tensor | None = None
) -> None:
    """Activations are off by half a step, sums by float32's last place."""
    size = codes_OI.shape[1] // params["scale"].shape[1]
    weight_OI = Nested(size).decode(codes_OI, {name: value.double() for name, value in params.items()})
    exact_NO = F.linear(x_NI.double(), weight_OI, None if bias_O is None else bias_O.double())
    step_N1 = x_NI.double().abs().amax(-1, keepdim=True) / largest(bits)
    scale_OI, offset_OI = (params[name].double().abs().repeat_interleave(size, 1) for name in ("scale", "offset"))
    sizes_OI = scale_OI * 2 ** (bits + 1) + offset_OI  # of a stored code, and of what is taken off
    lost_NO = (
        0.5 * step_N1 * weight_OI.abs().sum(1) + 2**-20 * x_NI.double().abs() @ sizes_OI.T + 2**-22 * exact_NO.abs()
    )
    assert ((y_NO.double() - exact_NO).abs() <= 1.01 * lost_NO + 1e-30).all()


@pytest.mark.parametrize("bits", WIDTHS)
@given(
    outputs=st.integers(1, 40),
    groups=st.integers(1, 9),
    size=st.integers(1, 150) | st.integers(250, 600),
    tokens=st.integers(1, 9),
    outlier=st.sampled_from((1.0, 1000.0)),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_only_activations_are_rounded(
    bits: int, outputs: int, groups: int, size: int, tokens: int, outlier: float, biased: bool, seed: int
) -> None:
    """Any shape and any groups: filled up, side by side, in one block or in several."""
    codes_OI, params = drawn(bits, (outputs, groups * size), groups, seed)
    generator = torch.Generator().manual_seed(seed)
    x_NI = torch.randn(tokens, groups * size, generator=generator)
    x_NI[:, -1] *= outlier
    bias_O = torch.randn(outputs, generator=generator) if biased else None
    kernel = Integer(codes_OI, params, bits)
    check(codes_OI, params, bits, x_NI, kernel.layer(x_NI, bias_O, None), bias_O)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_no_more_is_lost_than_by_rounding(bits: int) -> None:
    """Over a million activations, errors are those of a number's last place, evenly spread: step / sqrt(12)."""
    grid, codes_OI, params = coded(bits, None)
    x_NI = torch.randn(4096, INPUTS)
    weight_OI = grid.decode(codes_OI, params).double()
    step_N1 = x_NI.double().abs().amax(-1, keepdim=True) / largest(bits)
    spread_O = weight_OI.square().sum(-1).sqrt() / 12**0.5
    relative_NO = (Integer(codes_OI, params, bits).product(x_NI) - x_NI.double() @ weight_OI.T) / (step_N1 * spread_O)
    assert 0.9 < relative_NO.square().mean().sqrt() < 1.1


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("groups", [1, 8, 16, 64], ids=lambda groups: f"groups of {512 // groups}")
def test_the_largest_codes_and_activations_do_not_overflow(bits: int, groups: int) -> None:
    ends = torch.tensor([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1], dtype=torch.int8)
    codes_OI = ends.repeat_interleave(2)[:, None].repeat(1, 512)
    ones_OG = torch.ones(4, groups)
    kernel = Integer(codes_OI, {"scale": ones_OG, "offset": 0 * ones_OG}, bits)
    for sign in (1.0, -1.0):
        exact_O = sign * 512.0 * codes_OI[:, 0]
        torch.testing.assert_close(kernel.product(torch.full((1, 512), sign))[0], exact_O, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_token_does_not_notice_the_others(bits: int) -> None:
    _, codes_OI, params = coded(bits, 64)
    kernel = Integer(codes_OI, params, bits)
    x_NI = torch.randn(7, INPUTS) * torch.logspace(-2, 3, 7).unsqueeze(-1)
    alone = torch.cat([kernel.product(row.unsqueeze(0)) for row in x_NI])
    torch.testing.assert_close(kernel.product(x_NI), alone, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("groups", [1, 8])
def test_threads_find_what_one_does(threads: int, tokens: int, groups: int) -> None:
    """In a process of its own: the number of threads is the process's."""
    code = f"""
import torch
from switchq.inference.kernels import Integer
from switchq.inference.kernels.machine.compiled import shares_threads
from switchq.inference.rounded_low_rank import RoundedLowRank
torch.manual_seed(0)
codes_OI = torch.randint(-8, 8, (701, 512), dtype=torch.int8)
params = {{name: torch.randn(701, {groups}).half().float() for name in ("scale", "offset")}}
kernel, x_NI = Integer(codes_OI, params, 4), torch.randn({tokens}, 512)
adapter, found = RoundedLowRank(torch.randn(600, 512), torch.randn(600, 701)), []
for threads in (1, {threads}):
    torch.set_num_threads(threads)
    found.append(torch.cat([kernel.product(x_NI), kernel.layer(x_NI, None, adapter)]))
print(torch.equal(*found), shares_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(sys.platform == "linux")]


def test_callers_do_not_meet() -> None:
    """Python's threads may use a kernel at the same time."""
    _, codes_OI, params = coded(4, 64)
    kernel = Integer(codes_OI, params, 4)
    given = [torch.randn(5, INPUTS) for _ in range(8)]
    expected, found = [kernel.product(x_NI) for x_NI in given], [torch.empty(0)] * 8

    def work(number: int) -> None:
        for _ in range(50):
            found[number] = kernel.product(given[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_what_is_given_need_not_be_contiguous(bits: int) -> None:
    _, codes_OI, params = coded(bits, 64)
    kernel, x_IN = Integer(codes_OI, params, bits), torch.randn(INPUTS, 3)
    assert torch.equal(kernel.product(x_IN.T), kernel.product(x_IN.T.contiguous()))
    turned = {name: value.T.contiguous().T for name, value in params.items()}
    assert torch.equal(Integer(codes_OI.T.contiguous().T, turned, bits).product(x_IN.T), kernel.product(x_IN.T))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda kernel: pickle.loads(pickle.dumps(kernel))])
def test_a_copy_reads_its_own(again: Callable[[Integer], Integer]) -> None:
    _, codes_OI, params = coded(4, 64)
    kernel, x_NI = Integer(codes_OI, params, 4), torch.randn(3, INPUTS)
    expected_NO, other = kernel.product(x_NI), again(kernel)
    kernel.codes_OP.zero_()
    kernel.scale_OG.zero_()
    assert torch.equal(other.product(x_NI), expected_NO)


def test_no_tokens_at_all() -> None:
    _, codes_OI, params = coded(4, 64)
    assert Integer(codes_OI, params, 4).product(torch.empty(0, INPUTS)).shape == (0, OUTPUTS)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 128),
        torch.randn(2, INPUTS, dtype=torch.float64),
        torch.randn(2, INPUTS, 3),
        torch.empty(2, INPUTS, device="meta"),
    ],
    ids=["too short", "float64", "three dimensions", "elsewhere"],
)
def test_activations_that_do_not_fit_are_refused(x: Tensor) -> None:
    """Machine code would read beyond them."""
    _, codes_OI, params = coded(4, 64)
    with pytest.raises(ValueError, match=r"activations are \(N, 256\) of torch\.float32 on a CPU, not"):
        Integer(codes_OI, params, 4).product(x)


@pytest.mark.parametrize(
    "bias_O",
    [torch.zeros(47), torch.zeros(48).half(), torch.zeros(48).double(), torch.zeros(96)[::2]],
    ids=["too short", "float16", "float64", "with gaps"],
)
def test_a_bias_that_does_not_fit_is_refused(bias_O: Tensor) -> None:
    _, codes_OI, params = coded(4, 64)
    with pytest.raises(ValueError, match=r"a bias is 48 numbers of torch\.float32 on a CPU"):
        Integer(codes_OI, params, 4).layer(torch.randn(2, INPUTS), bias_O, None)


def test_levels_that_do_not_fit_are_refused() -> None:
    _, codes_OI, params = coded(4, 64)
    for name in ("scale", "offset"):
        with pytest.raises(UserError, match=f"numbers are no {name} of codes"):
            Integer(codes_OI, {**params, name: params[name][1:]}, 4)
    with pytest.raises(UserError, match="numbers are no scale of codes"):
        Integer(codes_OI, {name: value[:, :3] for name, value in params.items()}, 4)


def test_there_is_no_gradient_and_it_says_so() -> None:
    _, codes_OI, params = coded(4, 64)
    kernel, x_NI = Integer(codes_OI, params, 4), torch.randn(2, INPUTS, requires_grad=True)
    with pytest.raises(ValueError, match="packed products have no gradient"):
        kernel.product(x_NI)
    with torch.no_grad():
        kernel.product(x_NI)


def test_another_default_device() -> None:
    _, codes_OI, params = coded(4, 64)
    kernel, x_NI = Integer(codes_OI, params, 4), torch.randn(2, INPUTS)
    expected_NO = kernel.product(x_NI)
    with torch.device("meta"):
        found_NO = kernel.product(x_NI)
    assert torch.equal(found_NO, expected_NO)


@pytest.mark.parametrize("bits", [8, 2])
def test_a_row_so_long_that_its_sum_takes_more_than_32_bits(bits: int) -> None:
    ones_O1 = torch.ones(2, 1)
    codes_OI = torch.tensor([[1], [-1]], dtype=torch.int8).repeat(1, 140_000)
    kernel = Integer(codes_OI, {"scale": ones_O1, "offset": 0.5 * ones_O1}, bits)
    found_1O = kernel.product(torch.ones(1, 140_000))
    torch.testing.assert_close(found_1O, torch.tensor([[210_000.0, -70_000.0]]), rtol=1e-4, atol=0)


def test_a_processor_without_float16_decodes() -> None:
    """LLVM would call a function that is not there."""
    code = """
import llvmlite.binding as llvm
llvm.get_host_cpu_features = lambda: llvm.FeatureMap()
llvm.get_host_cpu_name = lambda: "x86-64"
llvm.get_process_triple = lambda: "x86_64-unknown-linux-gnu"
from switchq.inference.kernels import integer_products
print(integer_products())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spoils_its_own_token(bits: int, bad: float) -> None:
    _, codes_OI, params = coded(bits, None)
    kernel, x_NI = Integer(codes_OI, params, bits), torch.randn(3, INPUTS)
    exact_NO = kernel.product(x_NI)
    x_NI[1, 5] = bad
    found_NO = kernel.product(x_NI)
    assert found_NO[1].isnan().all()
    assert torch.equal(found_NO[::2], exact_NO[::2])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_zero_activations(bits: int) -> None:
    _, codes_OI, params = coded(bits, None)
    assert torch.equal(Integer(codes_OI, params, bits).product(torch.zeros(2, INPUTS)), torch.zeros(2, OUTPUTS))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("size", [16, 64, 256])
def test_without_x86s_instructions(bits: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out, products come to the same bits."""
    if not pairs.has_instructions():
        pytest.skip("this processor has no AVX2, so all others run what is written out")
    codes_OI, params = drawn(bits, (OUTPUTS, INPUTS), INPUTS // size, 0)
    x_NI, kernel = torch.randn(5, INPUTS), Integer(codes_OI, params, bits)
    usual_NO = kernel.product(x_NI)
    monkeypatch.setattr(pairs, "has_instructions", lambda: False)
    monkeypatch.setattr("switchq.inference.kernels.integer.product", product.__wrapped__)
    kernel._bind()
    assert torch.equal(kernel.product(x_NI), usual_NO)


def test_without_a_pool_one_thread_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    codes_OI, params = drawn(4, (OUTPUTS, INPUTS), 4, 0)
    x_NI, kernel = torch.randn(5, INPUTS), Integer(codes_OI, params, 4)
    usual_NO = kernel.product(x_NI)
    monkeypatch.setattr("switchq.inference.kernels.machine.threads.shares_threads", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr("switchq.inference.kernels.machine.threads.ENOUGH", 0)
    monkeypatch.setattr("switchq.inference.kernels.integer.product", product.__wrapped__)
    kernel._bind()
    assert torch.equal(kernel.product(x_NI), usual_NO)


@pytest.mark.parametrize("bits", WIDTHS)
@given(groups=st.integers(1, 9), size=st.integers(1, 300), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_packed_codes_come_back(bits: int, groups: int, size: int, seed: int) -> None:
    """Read one by one, by what the module says of where they lie."""
    layout, lowest = Layout.of(bits, size), 2 ** (bits - 1) if bits <= 4 else 0
    codes_OI, _ = drawn(bits, (2, groups * size), groups, seed)
    packed_OP = layout.pack(codes_OI, groups, lowest)
    bundle = layout.side * layout.blocks(size) * layout.width
    for row in range(2):
        for column in range(groups * size):
            group, inside = divmod(column, size)
            block, place = divmod(inside, layout.block)
            field, k = divmod(place, layout.width)
            beside = (block * layout.side + group % layout.side) * layout.width
            byte = int(packed_OP[row, group // layout.side * bundle + beside + k])
            code = byte >> (field * layout.field) & (2**layout.field - 1)
            assert (code - lowest if bits <= 4 else code - 256 * (code > 127)) == codes_OI[row, column]


@pytest.mark.parametrize("chunk", [1, 7 * INPUTS, 2**18], ids=["a row", "unevenly", "at once"])
@pytest.mark.parametrize("group_size", [None, 64], ids=["rows", "groups"])
def test_plain_multiplies_some_rows_at_a_time(
    chunk: int, group_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, codes_OI, params = coded(4, group_size)
    x_NI = torch.randn(3, INPUTS)  # and no fewer rows than tokens
    monkeypatch.setattr("switchq.inference.kernels.kernel.CHUNK", chunk)
    exact_NO = x_NI.double() @ grid.decode(codes_OI, params).double().T
    torch.testing.assert_close(Plain(codes_OI, params, grid).product(x_NI).double(), exact_NO, rtol=1e-5, atol=1e-5)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, codes_OI, params = coded(4, None)
    assert type(choose(codes_OI, params, 4, grid)) is Integer
    assert type(choose(codes_OI, params, 4, grid, packed=False)) is Plain
    monkeypatch.setattr("switchq.inference.kernels.choice.integer_products", lambda: False)
    assert type(choose(codes_OI, params, 4, grid)) is Plain


def test_where_llvm_makes_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("no such target")

    assert integer_products()
    monkeypatch.setattr("switchq.inference.kernels.integer.product", refused)
    assert not integer_products.__wrapped__()


@pytest.mark.parametrize("group_size", [None, 64], ids=["rows", "groups"])
def test_memory_falls_with_bits(group_size: int | None) -> None:
    """By the bits of a weight and 32 a group."""
    held = {bits: choose(*coded(bits, group_size)[1:], bits, Nested()).resident_bytes for bits in (8, 4, 2)}
    levels = 4 * OUTPUTS * (INPUTS // (group_size or INPUTS))
    assert held == {bits: OUTPUTS * INPUTS * bits // 8 + levels for bits in held}
