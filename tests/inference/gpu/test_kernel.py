"""Products from planes against the decoded weight: without Triton, and with it, compiled or interpreted."""

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.bitmap import WIDTHS
from switchq.inference.gpu.kernel import PlanesKernel, PlaneStore
from switchq.inference.gpu.tiles import TiledWeight, to_tiles
from switchq.inference.low_rank import LowRank
from switchq.quant import Nested
from switchq.quant.planes import pack_planes

if TYPE_CHECKING:
    from switchq.inference.gpu import products

OUTPUTS, INPUTS = 40, 256
CPU = torch.device("cpu")


def packed(
    bits: int,
    group_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int] = (OUTPUTS, INPUTS),
) -> tuple[PlanesKernel, Tensor]:
    """A random weight as its kernel, and as what the training grid decodes, float64."""
    grid = Nested(group_size)
    weight_OI = torch.randn(shape)
    params = grid.fit(weight_OI, bits)
    codes_OI = grid.encode(weight_OI, grid.fit(weight_OI, 8), 8).to(torch.int8)
    stored = pack_planes(codes_OI)[:bits]
    planes = [to_tiles(plane, k, shape).to(device) for k, plane in enumerate(stored)]
    halves = {name: params[name].half().to(device) for name in ("scale", "offset")}
    return PlanesKernel(planes, halves, shape[1], dtype), grid.decode(codes_OI >> (8 - bits), params).double()


@pytest.mark.parametrize("group_size", [None, 64], ids=str)
@pytest.mark.parametrize("bits", WIDTHS)
def test_without_triton(bits: int, group_size: int | None) -> None:
    kernel, weight_OI = packed(bits, group_size, CPU, torch.float32)
    torch.testing.assert_close(kernel.weight().double(), weight_OI, rtol=1e-6, atol=1e-7)
    x_NI, bias_O = torch.randn(3, INPUTS), torch.randn(OUTPUTS)
    low_RI, high_RO = torch.randn(5, INPUTS), torch.randn(5, OUTPUTS)
    expected_NO = x_NI.double() @ weight_OI.T + bias_O + x_NI.double() @ low_RI.double().T @ high_RO.double()
    y_NO = kernel.layer(x_NI, bias_O, LowRank(low_RI, high_RO))
    torch.testing.assert_close(y_NO.double(), expected_NO, rtol=1e-5, atol=1e-4)
    expected_NO = x_NI.double() @ weight_OI.T
    torch.testing.assert_close(kernel.product(x_NI).double(), expected_NO, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("group_size", [None, 64], ids=str)
@pytest.mark.parametrize("bits", WIDTHS)
def test_kernels_decode_exactly(bits: int, group_size: int | None, interpreted: torch.device) -> None:
    kernel, weight_OI = packed(bits, group_size, interpreted, torch.float32)
    torch.testing.assert_close(kernel.weight().cpu().double(), weight_OI, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("bits", "dtype"), [(2, torch.float16), (4, torch.float16), (2, torch.bfloat16)], ids=str)
@pytest.mark.parametrize("group_size", [None, 64], ids=str)
def test_fields_in_two_places(bits: int, dtype: torch.dtype, group_size: int | None, interpreted: torch.device) -> None:
    """As several tokens take them."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(bits, group_size, interpreted, dtype)
    x_NI = torch.randn(3, INPUTS).to(dtype)
    y_NO = products.product(
        x_NI.to(interpreted), kernel.tiled, tile=products.Tile(2, 1, 2),
        out_NO=torch.empty(3, OUTPUTS, device=interpreted),
    )  # fmt: skip
    sizes_NO = (x_NI.double().abs() @ weight_OI.abs().T).float()
    assert ((y_NO.cpu() - (x_NI.double() @ weight_OI.T).float()).abs() <= 2**-15 * sizes_NO + 1e-4).all()


@pytest.mark.parametrize("processors", [72, 108, 132])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_programs_own_tile_fits(bits: int, processors: int) -> None:
    """Rows are shared out without a rest, every row has a thread, and multiprocessors have enough to do."""
    pytest.importorskip("triton")
    from switchq.inference.gpu.products import _check, vector_tile

    for outputs in (1, 40, 768, 1600, 2304, 3072, 4096, 4800, 6400, 11008, 49152):
        for inputs in (32, 128, 160, 672, 768, 1600, 2048, 3072, 4096, 6400, 11008):
            tile = vector_tile(outputs, inputs, bits, processors)
            rows = 2 * -(-outputs // 32)
            weight = TiledWeight((torch.empty(0),) * bits, torch.empty(rows, 1, 8, 2, device="meta"), (outputs, inputs))
            _check(tile, weight, torch.float16, 1)
            assert tile.down <= 2 or rows // tile.down >= processors // 3
            assert 32 * tile.warps * tile.programs <= 2048
            assert tile.down == 1 or rows > processors or inputs > 4096


def test_tiles_of_gpt2_xl() -> None:
    """With all rows at once, beside room for the next product's."""
    pytest.importorskip("triton")
    from switchq.inference.gpu.products import Tile, vector_tile

    assert vector_tile(4800, 1600, 2) == Tile(8, 2, down=3, programs=2, early=4)
    assert vector_tile(6400, 1600, 2) == Tile(16, 1, down=2, early=2)  # 400 tiles of rows are no multiple of 3
    assert vector_tile(4800, 1600, 4) == vector_tile(4800, 1600, 8) == Tile(8, 2, down=3, early=8)
    assert vector_tile(6400, 1600, 4) == Tile(8, 2, down=2, programs=2, early=2)
    assert vector_tile(4800, 1600, 4, pdl=False) == Tile(8, 2, down=3)
    assert vector_tile(1600, 1600, 4, 108) == Tile(8, 2, down=1, programs=2, early=4)
    assert vector_tile(1600, 1600, 4, 80) == Tile(8, 2, down=2, programs=2, early=2)


def test_registers_that_programs_leave_each_other() -> None:
    """A multiprocessor has 65,536, which a warp gets by eights a thread."""
    pytest.importorskip("triton")
    from switchq.inference.gpu.products import Tile, registers

    for warps, programs in itertools.product((1, 2, 4, 8, 16), (2, 3, 4, 6)):
        most = registers(Tile(warps, 1, 1, programs=programs))
        assert most is not None
        assert most % 8 == 0
        assert 32 * warps * programs * most <= 65536 < 32 * warps * programs * (most + 8)
    assert registers(Tile(16, 1, 1)) is None


def test_tiles_that_do_not_fit(interpreted: torch.device) -> None:
    """Forty rows are four tiles with those that fill up."""
    from switchq.inference.gpu import products

    kernel, _ = packed(4, None, interpreted, torch.float16)
    x_1I = torch.zeros(1, INPUTS, dtype=torch.float16, device=interpreted)
    for tile in (products.Tile(4, 1, 2, 3), products.Tile(1, 2, 2, 4)):
        with pytest.raises(ValueError, match="does not fit 40 rows"):
            products.product(x_1I, kernel.tiled, tile=tile)
    for x_NI, places in ((x_1I.repeat(2, 1), 3), (x_1I.repeat(9, 1).bfloat16(), 2)):
        with pytest.raises(ValueError, match="more places than a mantissa"):
            products.product(x_NI, kernel.tiled, tile=products.Tile(2, 1, places))
    for early in (5, -1):
        with pytest.raises(ValueError, match="a warp's 4 steps"):
            products.product(x_1I, kernel.tiled, tile=products.Tile(2, 1, early=early))


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bits", "group_size"), [(2, None), (3, 64), (4, None), (5, 128), (8, 32)])
def test_kernels_multiply(
    bits: int, group_size: int | None, dtype: torch.dtype, tokens: int, interpreted: torch.device
) -> None:
    """float32 sums of several tokens lose at most 8 bits to what lies under the codes in bfloat16; one token's
    activations are rounded, at random by a ninth of the bound."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(bits, group_size, interpreted, dtype)
    x_NI, bias_O = torch.randn(tokens, INPUTS).to(dtype), torch.randn(OUTPUTS).to(dtype)
    u_NR, high_OR = torch.randn(tokens, 6).to(dtype), torch.randn(OUTPUTS, 6).to(dtype)
    residual_NO = torch.randn(tokens, OUTPUTS)
    before_NO = x_NI.double() @ weight_OI.T + bias_O + u_NR.double() @ high_OR.double().T
    expected_NO = F.gelu(before_NO.float(), approximate="tanh") + residual_NO
    out_NO = torch.empty(tokens, OUTPUTS, device=interpreted)
    there = [one.to(interpreted) for one in (x_NI, bias_O, u_NR, high_OR, residual_NO)]
    products.product(
        there[0], kernel.tiled,
        bias_O=there[1], low=(there[2], there[3]), gelu=True, residual_NO=there[4], out_NO=out_NO,
    )  # fmt: skip
    sizes_NO = (x_NI.double().abs() @ weight_OI.abs().T).float()
    assert ((out_NO.cpu() - expected_NO).abs() <= 2**-15 * sizes_NO + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize(
    ("warps", "depth", "down", "group_size"),
    [(1, 2, 2, 64), (2, 2, 1, 96), (2, 4, 2, None), (4, 2, 3, 32), (8, 1, 1, 224), (8, 1, 3, None), (4, 1, 2, 128)],
    ids=str,
)
def test_a_token_however_it_is_cut(
    warps: int, depth: int, down: int, group_size: int | None, bits: int, dtype: torch.dtype, interpreted: torch.device
) -> None:
    """Six tiles of rows, the last with half its rows, by five or six of columns, the last one not always whole."""
    from switchq.inference.gpu import products

    check_a_token(products.Tile(warps, depth, 1, down), group_size, bits, dtype, interpreted)


@pytest.mark.parametrize(("bits", "early"), [(2, 1), (2, 7), (3, 2), (4, 4), (7, 3)])
@pytest.mark.parametrize(
    ("warps", "depth", "down", "group_size"), [(4, 2, 1, None), (2, 3, 2, 64), (2, 2, 3, 32), (2, 2, 2, 128)], ids=str
)
def test_codes_made_early(
    warps: int, depth: int, down: int, group_size: int | None, bits: int, early: int, interpreted: torch.device
) -> None:
    """Those of some steps, or of all of a tile and some of the next; in one round, in several, with groups."""
    from switchq.inference.gpu import products

    tile = products.Tile(warps, depth, 1, down, early=early)
    check_a_token(tile, group_size, bits, torch.float16, interpreted)


@pytest.mark.parametrize(("dtype", "powers"), [(torch.float16, (-7, 9)), (torch.bfloat16, (-62, 90))], ids=str)
def test_activations_of_any_size(dtype: torch.dtype, powers: tuple[int, ...], interpreted: torch.device) -> None:
    """Their unit is a power of two's, so results are as many times as large, to the last bit."""
    from switchq.inference.gpu import products

    kernel, _ = packed(4, None, interpreted, dtype)
    x_1I = (torch.randint(64, 128, (1, INPUTS)) / 64 * torch.randn(1, INPUTS).sign()).to(dtype).to(interpreted)
    one_1O, more_1O = torch.empty(2, 1, OUTPUTS, device=interpreted)
    products.product(x_1I, kernel.tiled, out_NO=one_1O)
    for power in powers:
        products.product(x_1I * 2.0**power, kernel.tiled, out_NO=more_1O)
        assert torch.equal(more_1O, one_1O * 2.0**power)


@pytest.mark.parametrize("group_size", [None, 64], ids=str)
@pytest.mark.parametrize("bits", [2, 8])
def test_activations_far_above_the_others(bits: int, group_size: int | None, interpreted: torch.device) -> None:
    """Only those of their 128 columns are rounded by more, and none by more than is said."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(bits, group_size, interpreted, torch.float16)
    x_1I = torch.randn(1, INPUTS).half()
    x_1I[0, 5] = 3000.0
    out_1O = torch.empty(1, OUTPUTS, device=interpreted)
    products.product(x_1I.to(interpreted), kernel.tiled, out_NO=out_1O)
    digits_1I, most_T = as_digits(x_1I), x_1I.double().abs().view(-1, 128).amax(1)
    assert ((digits_1I - x_1I.double()).abs().view(-1, 128) <= most_T[:, None] / 32512).all()
    sizes_1O = digits_1I.abs() @ weight_OI.abs().T
    assert ((out_1O.cpu() - digits_1I @ weight_OI.T).abs() <= 2**-20 * sizes_1O.max()).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_activations_that_are_no_numbers(value: float, dtype: torch.dtype, interpreted: torch.device) -> None:
    from switchq.inference.gpu import products

    kernel, _ = packed(4, None, interpreted, dtype)
    x_1I = torch.randn(1, INPUTS).to(dtype)
    x_1I[0, 200] = value
    assert products.product(x_1I.to(interpreted), kernel.tiled).isnan().all()
    assert not products.product(torch.zeros_like(x_1I).to(interpreted), kernel.tiled).any()


def as_digits(x_1I: Tensor) -> Tensor:
    """Activations as the kernel for one token rounds them, float64: in a unit for each 128 columns."""
    columns = x_1I.shape[1]
    x_TC = F.pad(x_1I.double(), (0, -columns % 128)).view(-1, 128)
    power_T1 = torch.frexp(x_TC.abs().amax(1, keepdim=True)).exponent - 1
    unit_T1 = 2.0 ** (power_T1 - 14).double() * 128 / 127
    return ((x_TC / unit_T1).round() * unit_T1).view(1, -1)[:, :columns]


def check_a_token(
    tile: "products.Tile", group_size: int | None, bits: int, dtype: torch.dtype, device: torch.device
) -> None:
    """88 rows and an adapter of rank 200, against float64."""
    from switchq.inference.gpu import products

    inputs = next(columns for columns in (672, 704, 640) if columns % (group_size or columns) == 0)
    kernel, weight_OI = packed(bits, group_size, device, dtype, (88, inputs))
    x_1I, u_1R, high_OR = (torch.randn(shape).to(dtype) for shape in ((1, inputs), (1, 200), (88, 200)))
    out_1O = torch.empty(1, 88, device=device)
    low = u_1R.to(device), high_OR.to(device)
    products.product(x_1I.to(device), kernel.tiled, low=low, out_NO=out_1O, tile=tile)
    digits_1I, more_1O = as_digits(x_1I), u_1R.double() @ high_OR.double().T
    sizes_1O = digits_1I.abs() @ weight_OI.abs().T + 4 * u_1R.double().abs() @ high_OR.double().abs().T
    assert ((out_1O.cpu() - digits_1I @ weight_OI.T - more_1O).abs() <= 2**-20 * sizes_1O).all()


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize(("inputs", "group_size"), [(1152, 384), (1152, 128), (672, 96), (672, None)], ids=str)
def test_groups_over_several_rounds(
    inputs: int, group_size: int | None, tokens: int, interpreted: torch.device
) -> None:
    """Two warps have a tile each, so there are three rounds or five; groups end within a tile or far beyond it."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(4, group_size, interpreted, torch.float16, (40, inputs))
    x_NI = torch.randn(tokens, inputs).half()
    out_NO = torch.empty(tokens, 40, device=interpreted)
    products.product(x_NI.to(interpreted), kernel.tiled, tile=products.Tile(2, 1, 2), out_NO=out_NO)
    sizes_NO = (x_NI.double().abs() @ weight_OI.abs().T).float()
    assert ((out_NO.cpu() - (x_NI.double() @ weight_OI.T).float()).abs() <= 2**-15 * sizes_NO + 1e-4).all()
    decoded_OI = products.weight(kernel.tiled, torch.float32)
    torch.testing.assert_close(decoded_OI.cpu().double(), weight_OI, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_programs_that_share_a_gpus_multiprocessor(bits: int, gpu: torch.device) -> None:
    """As at 4096 x 4096, on fewer rows."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(bits, None, gpu, torch.float16, (64, 4096))
    x_1I = torch.randn(1, 4096).half()
    tile = products.vector_tile(4096, 4096, bits)
    assert tile.programs == (1 if bits == 8 else 2)
    found_1O = products.product(x_1I.to(gpu), kernel.tiled, tile=tile).cpu().double()
    exact_1O, sizes_1O = x_1I.double() @ weight_OI.T, x_1I.double().abs() @ weight_OI.abs().T
    assert ((found_1O - exact_1O).abs() <= 2**-10 * (sizes_1O + exact_1O.abs())).all()


@pytest.mark.parametrize("outputs", [1600, 4800])
def test_codes_made_early_on_a_gpu(outputs: int, gpu: torch.device) -> None:
    """As the assembler orders it; the launch begins while the one before runs, where it can."""
    from switchq.inference.gpu import products
    from switchq.inference.gpu.device import overlaps

    kernel, weight_OI = packed(2, None, gpu, torch.float16, (96, 1600))
    x_1I = torch.randn(1, 1600).half()
    tile = products.vector_tile(outputs, 1600, 2)
    assert tile.early
    given_1I = x_1I.to(gpu)
    for _ in range(3):  # the second begins early
        found_1O = products.product(given_1I, kernel.tiled, tile=tile, pdl=overlaps(gpu))
    exact_1O, sizes_1O = x_1I.double() @ weight_OI.T, x_1I.double().abs() @ weight_OI.abs().T
    assert ((found_1O.cpu().double() - exact_1O).abs() <= 2**-10 * (sizes_1O + exact_1O.abs())).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 4, 33])
def test_on_a_gpu(tokens: int, dtype: torch.dtype, gpu: torch.device) -> None:
    kernel, weight_OI = packed(4, 64, gpu, dtype)
    x_NI = torch.randn(tokens, INPUTS).to(gpu, dtype)
    exact_NO = x_NI.cpu().double() @ weight_OI.T
    sizes_NO = x_NI.cpu().double().abs() @ weight_OI.abs().T
    eps = torch.finfo(dtype).eps
    assert ((kernel.product(x_NI).cpu().double() - exact_NO).abs() <= eps * (sizes_NO + exact_NO.abs())).all()


@pytest.mark.parametrize(("start", "stride"), [(0, INPUTS), (3, INPUTS + 8), (8, INPUTS + 8), (0, INPUTS + 4)])
def test_activations_that_begin_anywhere(start: int, stride: int, interpreted: torch.device) -> None:
    """Kernels read 16 bytes at once: what lies in between is copied, and nothing else is."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(4, None, interpreted, torch.float16)
    x_NI = torch.randn(2 * stride + 8, device=interpreted).half()[start:].as_strided((2, INPUTS), (stride, 1), start)
    for some_NI in (x_NI, x_NI[1:]):
        read_NI = products.aligned(some_NI)
        assert read_NI.data_ptr() % 16 == 0
        assert len(read_NI) == 1 or read_NI.stride(0) % 8 == 0
        assert (read_NI is some_NI) == (start % 8 == 0 and stride % 8 == 0)
        y_NO = products.product(some_NI, kernel.tiled)
        expected_NO = some_NI.cpu().double() @ weight_OI.T
        torch.testing.assert_close(y_NO.cpu().double(), expected_NO, rtol=2e-3, atol=5e-2)


def test_planes_are_cut_into_tiles_once() -> None:
    codes_OI = torch.randint(-128, 128, (OUTPUTS, INPUTS)).to(torch.int8)
    stored, store = pack_planes(codes_OI), PlaneStore(CPU)
    first = store.planes("a", stored[:2], (OUTPUTS, INPUTS))
    more = store.planes("a", stored[:4], (OUTPUTS, INPUTS))
    assert [one.data_ptr() for one in more[:2]] == [one.data_ptr() for one in first]
    assert len(store.planes("a", stored[:3], (OUTPUTS, INPUTS))) == 3
    other = store.planes("b", stored[:1], (OUTPUTS, INPUTS))
    assert other[0].data_ptr() != first[0].data_ptr()
