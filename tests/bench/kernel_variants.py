"""Ways of multiplying with bit-planes on a GPU, beside each other: tiles of the kernel, widths, sizes, batches.

One that fails is reported, and the rest go on. Results are compared with the decoded weight's in float64.
"""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from switchq.inference.gpu.device import H200
from switchq.inference.gpu.tiles import COLUMNS, PAIR, ROWS, TiledWeight, decoded, to_levels

SIZES = ((4096, 4096), (4800, 1600), (6400, 1600), (1600, 1600), (1600, 6400), (2304, 768), (768, 3072))
"""(O, I): a 4,096-wide model, GPT-2 xl, GPT-2 small."""

OTHERS = (
    (576, 576), (1536, 576), (576, 1536), (768, 768), (3072, 768), (1024, 1024), (3072, 1024), (4096, 1024),
    (1024, 4096), (11008, 4096), (4096, 11008),
)  # fmt: skip
"""SmolLM2, GPT-2 small and medium, a 7-billion LLaMA."""

COLD = 160e6
"""Bytes of weights that are gone through in turn, more than a cache holds."""


class Case(NamedTuple):
    """What is multiplied, and how: what a `Tile` says, or None for the program's own."""

    size: tuple[int, int]
    bits: int
    batch: int = 1
    tile: tuple[int, ...] | None = None
    groups: int = 1


def cases() -> Iterator[Case]:
    """The program's own tiles: widths, groups and batches."""
    for bits, size in itertools.product((2, 4), SIZES):
        yield Case(size, bits)
    yield Case((4096, 128), 2)  # next to nothing to read
    for bits, size in itertools.product((8, 3), SIZES):
        yield Case(size, bits)
    for size, bits in itertools.product(SIZES[:3], (4, 2, 8)):
        yield Case(size, bits, groups=size[1] // 64)
    for bits in (4, 2):
        yield Case(SIZES[0], bits, groups=SIZES[0][1] // 128)
    for batch, bits, size in itertools.product((32, 8), (4, 2), SIZES[:2]):
        yield Case(size, bits, batch)
    yield Case(SIZES[1], 4, 32, groups=SIZES[1][1] // 64)


def tiles() -> Iterator[Case]:
    """Others for one token, where registers are about enough for as many programs as are to share a multiprocessor."""
    from switchq.inference.gpu.products import REGISTERS, Tile, vector_tile

    for bits, size in itertools.product((2, 4, 3, 8), SIZES + OTHERS):
        across, rows, own = -(-size[1] // COLUMNS), -(-size[0] // ROWS), vector_tile(*size, bits)
        for warps, down, programs in itertools.product((16, 8), (1, 2, 3, 4), (1, 2)):
            whole = -(-across // warps)  # tiles of columns that a warp has
            most = min(255, REGISTERS // (32 * warps * programs))
            if rows % down or ROWS * down > 32 * min(warps, across) or (down > 1 and rows < H200 // 3 * down):
                continue
            for depth, early in itertools.product({min(whole, 4), min(whole, 2)}, (0, 2, 4, 6, 8)):
                tile = Tile(warps, depth, 1, down, programs, early)
                needed = 24 + depth * (2 + 2 * bits * down) + 4 * (early + 1) * down
                if early <= 4 * depth and needed <= most and tile != own:
                    yield Case(size, bits, 1, tile)


def weight(case: Case, seed: int = 0) -> TiledWeight:
    """Random planes and levels."""
    (outputs, inputs), bits = case.size, case.bits
    shape = (bits, -(-outputs // PAIR) * PAIR // ROWS, -(-inputs // COLUMNS), 32, 2)
    generator = torch.Generator("cuda").manual_seed(seed)
    planes = torch.randint(-(2**31), 2**31, shape, device="cuda", generator=generator).int().unbind()
    scale = torch.rand(outputs, case.groups, device="cuda", generator=generator).half() / 2**bits
    return TiledWeight(tuple(planes), to_levels(scale, scale / 2), case.size)


def multiply(case: Case, one: TiledWeight, x_NI: Tensor, pdl: bool) -> Tensor:
    """The product."""
    from switchq.inference.gpu import products

    tile = None if case.tile is None else products.Tile(*case.tile)
    found: Tensor = products.product(x_NI, one, tile=tile, pdl=pdl)
    return found


def prepare(case: Case) -> tuple[str, float]:
    """Compile what the case needs, and run it once; what went wrong, and the seconds of the first time."""
    seconds = []
    try:
        x_NI, one = torch.zeros(case.batch, case.size[1], device="cuda", dtype=torch.float16), weight(case)
        for pdl in overlaps(case):
            torch.cuda.synchronize()
            began = perf_counter()
            multiply(case, one, x_NI, pdl)
            torch.cuda.synchronize()
            seconds.append(perf_counter() - began)
    except Exception as error:
        return said(error), 0.0
    return "", seconds[0]


def said(error: Exception) -> str:
    """Its kind and its last words."""
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def overlaps(case: Case) -> tuple[bool, ...]:
    """Whether a kernel begins while the one before runs; both only for one token, a scale a row and the own tile."""
    return (True, False) if case.tile is None and case.batch == 1 and case.groups == 1 else (True,)


def error_of(case: Case, one: TiledWeight, x_NI: Tensor) -> float:
    """Largest error, of the largest result."""
    exact_NO = F.linear(x_NI.double(), decoded(one))
    return float((multiply(case, one, x_NI, True).double() - exact_NO).abs().max() / exact_NO.abs().max())


def variants(
    todo: list[Case],
    add: Callable[..., Any],
    end: float,
    microseconds: Callable[[list[Callable[[], object]]], float],
    dense: Callable[[Case], float],
    limit: float,
) -> None:
    """Write a row for every case of `todo` as soon as it is timed; `dense` gives microseconds of float16's product.

    The first are compiled here, the others meanwhile in processes, which share Triton's cache with this one. `waiting`
    counts those that were still to be compiled when a case was timed.
    """
    multiprocessing.set_forkserver_preload(["__main__"])
    known: dict[tuple[tuple[int, int], int], float] = {}
    with multiprocessing.get_context("forkserver").Pool(max(1, min(12, (os.cpu_count() or 2) - 4))) as pool:
        jobs = [pool.apply_async(prepare, (case,)) for case in todo[OWN:]]
        for number, case in enumerate(todo):
            if perf_counter() > end:
                add(cut_off=len(todo) - number)
                break
            try:
                wrong, compiled = "", None
                if number >= OWN:
                    wrong, compiled = jobs[number - OWN].get(max(0.1, end - perf_counter()))
                if wrong:
                    raise RuntimeError(wrong)
                key = (case.size, case.batch)
                if key not in known:
                    known[key] = dense(case)
                waiting = sum(not job.ready() for job in jobs)
                measure(case, add, microseconds, known[key], limit, waiting, compiled)
            except multiprocessing.TimeoutError:
                continue
            except Exception as error:
                add(**case._asdict(), wrong=said(error))
        pool.terminate()


OWN = 4
"""Cases that are compiled by the process that times them, so that there is something to see at once."""


def measure(
    case: Case,
    add: Callable[..., Any],
    microseconds: Callable[[list[Callable[[], object]]], float],
    dense: float,
    limit: float,
    waiting: int,
    compiled: float | None,
) -> None:
    """One row; `compiled`: seconds until the kernel had run for the first time, None if this process compiled it."""
    packed = case.size[0] * case.size[1] * case.bits / 8
    ones = [weight(case, seed) for seed in range(max(3, min(96, round(COLD / packed))))]
    x_NI = torch.randn(case.batch, case.size[1], device="cuda").half()

    def time(pdl: bool, weights: list[TiledWeight]) -> float:
        return microseconds([lambda one=one: multiply(case, one, x_NI, pdl) for one in weights])  # type: ignore[misc]

    times = {pdl: time(pdl, ones) for pdl in overlaps(case)}
    cached = time(True, ones[:2] * 12)
    best, reading = min(times.values()), None
    if case.batch == 1 and case.groups == 1 and case.tile is None:
        from kernel_reading import reader

        from switchq.inference.gpu.products import vector_tile

        read = reader(vector_tile(*case.size, case.bits))
        reading = microseconds([lambda one=one: read(one) for one in ones])  # type: ignore[misc]
    add(
        **case._asdict(), us=best, us_no_overlap=times.get(False), us_cached=cached, us_reading=reading, float16=dense,
        ratio=dense / best, of_limit=packed / best * 1e6 / limit, error=error_of(case, ones[0], x_NI), waiting=waiting,
        compiled_s=compiled,
    )  # fmt: skip
