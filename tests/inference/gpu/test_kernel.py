"""Products from planes against the decoded weight: without Triton, and with it, compiled or interpreted."""

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.bitmap import WIDTHS
from switchq.inference.gpu.kernel import PlanesKernel, PlaneStore
from switchq.inference.gpu.tiles import to_tiles
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
    """As many warps take them; here they share two tiles."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(bits, group_size, interpreted, dtype)
    x_NI = torch.randn(3, INPUTS).to(dtype)
    y_NO = products.product(
        x_NI.to(interpreted), kernel.tiled, tile=products.Tile(2, 1, 2),
        out_NO=torch.empty(3, OUTPUTS, device=interpreted),
    )  # fmt: skip
    sizes_NO = (x_NI.double().abs() @ weight_OI.abs().T).float()
    assert ((y_NO.cpu() - (x_NI.double() @ weight_OI.T).float()).abs() <= 2**-15 * sizes_NO + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_programs_own_tile_fits(bits: int, dtype: torch.dtype) -> None:
    """Rows are shared out without a rest, every row has a thread, every tile of columns a warp or a round."""
    pytest.importorskip("triton")
    from switchq.inference.gpu.products import vector_tile

    in_rounds = 0
    for outputs in (1, 40, 768, 1600, 2304, 4096, 4800, 6400, 11008, 49152):
        for inputs in (32, 128, 672, 768, 1600, 2048, 3072, 4096, 6400, 11008):
            for chunk in (32, 64, 128, inputs):
                tile = vector_tile(outputs, inputs, bits, dtype, chunk)
                across, rows = -(-inputs // 128), 2 * -(-outputs // 32)
                assert rows % tile.down == 0
                assert 16 * tile.down <= 32 * min(tile.warps, across)
                assert tile.places % tile.share == 0
                rounds = -(-across // (tile.warps * tile.depth))
                assert not tile.early or (bits == 2 and dtype == torch.float16 and chunk == inputs)
                assert not tile.early or tile.depth == rounds == 1
                assert rounds == 1 or across > 32 or (tile[:2], rounds, chunk) == ((8, 2), 2, inputs)
                in_rounds += rounds > 1 and across <= 32
    assert in_rounds == (bits > 2)  # 4096 x 4096 alone, with a scale a row
    assert vector_tile(4800, 1600, 8, dtype, 1600)[:2] == (8, 2)  # 300 programs: 36 would be left over
    assert vector_tile(6400, 1600, 8, dtype, 1600)[:2] == (16, 1)  # 400: 136
    assert vector_tile(8448, 1600, 8, dtype, 1600)[:2] == (16, 1)  # 528: two whole rounds
    assert vector_tile(4800, 4096, 8, dtype, 4096)[:2] == (16, 2)  # 300 programs in one round, 36 left over
    assert vector_tile(4800, 1600, bits, dtype, 1600, pdl=False).early == 0
    early = {outputs: vector_tile(outputs, 1600, bits, dtype, 1600).early for outputs in (768, 1600, 4800)}
    assert early == {768: 0, 1600: 2, 4800: 2} if bits == 2 and dtype == torch.float16 else not any(early.values())


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
    for x_NI, places in ((x_1I, 3), (x_1I.bfloat16(), 2), (x_1I.repeat(9, 1).bfloat16(), 2)):
        with pytest.raises(ValueError, match="more places than a mantissa"):
            products.product(x_NI, kernel.tiled, tile=products.Tile(2, 1, places))
    with pytest.raises(ValueError, match="cannot share a sum by 3"):
        products.product(x_1I, kernel.tiled, tile=products.Tile(2, 1, 2, share=3))
    grouped, _ = packed(4, 64, interpreted, torch.float16)
    for early in (9, -1):
        with pytest.raises(ValueError, match="a tile's 8 steps"):
            products.product(x_1I, kernel.tiled, tile=products.Tile(2, 1, 2, early=early))
    for x_NI, tiled, tile in (
        (x_1I, kernel.tiled, products.Tile(1, 1, 2, early=2)),
        (x_1I, kernel.tiled, products.Tile(2, 2, 2, early=2)),
        (x_1I, grouped.tiled, products.Tile(2, 1, 2, early=2)),
        (x_1I.bfloat16(), kernel.tiled, products.Tile(2, 1, 1, early=2)),
    ):
        with pytest.raises(ValueError, match="float16, one scale a row and a warp a tile of columns"):
            products.product(x_NI, tiled, tile=tile)


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bits", "group_size"), [(2, None), (3, 64), (4, None), (5, 128), (8, 32)])
def test_kernels_multiply(
    bits: int, group_size: int | None, dtype: torch.dtype, tokens: int, interpreted: torch.device
) -> None:
    """float32 sums lose at most 8 bits to what lies under the codes in bfloat16."""
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
    [(1, 2, 2, None), (2, 2, 1, 96), (2, 4, 2, None), (4, 2, 3, 32), (8, 1, 1, 224), (8, 1, 3, None)],
    ids=str,
)
def test_a_token_however_it_is_cut(
    warps: int, depth: int, down: int, group_size: int | None, bits: int, dtype: torch.dtype, interpreted: torch.device
) -> None:
    """Six tiles of rows, the last with half its rows, by as many of columns, the last with a quarter of its columns."""
    from switchq.inference.gpu import products

    places = products.vector_tile(88, 672, bits, dtype, 672).places
    check_a_token(products.Tile(warps, depth, places, down), group_size, bits, dtype, interpreted)


@pytest.mark.parametrize(("bits", "share"), [(2, 4), (2, 2), (3, 2), (4, 2)])
@pytest.mark.parametrize(
    ("warps", "depth", "down", "group_size"),
    [(2, 2, 1, None), (1, 2, 2, None), (8, 1, 3, None), (2, 2, 1, 96), (4, 2, 3, 32)],
    ids=str,
)
def test_places_that_share_a_sum(
    warps: int, depth: int, down: int, group_size: int | None, bits: int, share: int, interpreted: torch.device
) -> None:
    """In one round, in several, with groups."""
    from switchq.inference.gpu import products

    places = products.vector_tile(88, 672, bits, torch.float16, 672).places
    tile = products.Tile(warps, depth, places, down, share=share)
    check_a_token(tile, group_size, bits, torch.float16, interpreted)


@pytest.mark.parametrize(("bits", "share", "early"), [(2, 4, 2), (2, 1, 3), (3, 2, 8), (4, 1, 4), (4, 2, 1), (8, 1, 2)])
@pytest.mark.parametrize("down", [1, 2, 3])
def test_codes_made_early(down: int, bits: int, share: int, early: int, interpreted: torch.device) -> None:
    """Those of some steps, or of all."""
    from switchq.inference.gpu import products

    places = products.vector_tile(88, 672, bits, torch.float16, 672).places
    tile = products.Tile(8, 1, places, down, share=share, early=early)
    check_a_token(tile, None, bits, torch.float16, interpreted)


def check_a_token(
    tile: "products.Tile", group_size: int | None, bits: int, dtype: torch.dtype, device: torch.device
) -> None:
    """88 x 672 and an adapter of rank 200, against float64."""
    from switchq.inference.gpu import products

    kernel, weight_OI = packed(bits, group_size, device, dtype, (88, 672))
    x_1I, u_1R, high_OR = (torch.randn(shape).to(dtype) for shape in ((1, 672), (1, 200), (88, 200)))
    out_1O = torch.empty(1, 88, device=device)
    low = u_1R.to(device), high_OR.to(device)
    products.product(x_1I.to(device), kernel.tiled, low=low, out_NO=out_1O, tile=tile)
    sizes_1O = (x_1I.double().abs() @ weight_OI.abs().T + u_1R.double().abs() @ high_OR.double().abs().T).float()
    exact_1O = (x_1I.double() @ weight_OI.T + u_1R.double() @ high_OR.double().T).float()
    assert ((out_1O.cpu() - exact_1O).abs() <= 2**-15 * sizes_1O + 1e-4).all()


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
    products.product(x_NI.to(interpreted), kernel.tiled, tile=products.Tile(2, 1, 2, 2), out_NO=out_NO)
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
    tile = products.vector_tile(4096, 4096, bits, torch.float16, 4096)
    assert tile.programs == 2
    found_1O = products.product(x_1I.to(gpu), kernel.tiled, tile=tile).cpu().double()
    exact_1O, sizes_1O = x_1I.double() @ weight_OI.T, x_1I.double().abs() @ weight_OI.abs().T
    assert ((found_1O - exact_1O).abs() <= 2**-10 * (sizes_1O + exact_1O.abs())).all()


@pytest.mark.parametrize("outputs", [1600, 4800])
def test_codes_made_early_on_a_gpu(outputs: int, gpu: torch.device) -> None:
    """As the assembler orders it; the launch begins while the one before runs, where it can."""
    from switchq.inference.gpu import products
    from switchq.inference.gpu.device import overlaps

    kernel, weight_OI = packed(2, None, gpu, torch.float16, (64, 1600))
    x_1I = torch.randn(1, 1600).half()
    tile = products.vector_tile(outputs, 1600, 2, torch.float16, 1600)
    assert tile.early == 2
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
