"""One token's attention over a cache, in float32.

    out = sum_t p_t v_t        p_t = exp(s_t - max s) / sum_t exp(s_t - max s)        s_t = q k_t / sqrt(D)

A part of the work is a row's queries that share a key and its value. The exponential is that of S. Moshier's Cephes
library: e^x = 2^n e^r with n = round(x / ln 2), and a polynomial for e^r; its relative error is below 2e-7.
"""

import ctypes
from functools import cache
from typing import Any

from switchq.inference.kernels.machine import threads
from switchq.inference.kernels.machine.compiled import MachineCode
from switchq.inference.kernels.machine.rows import LANES
from switchq.inference.kernels.machine.text import Function, constant, single

POINTERS = ("q", "k", "v", "keys", "values", "out", "scores", "starts")
NUMBERS = ("rows", "heads", "shared", "capacity", "position", "q_row", "k_row", "v_row")

TASK = {**dict.fromkeys(POINTERS, "ptr"), **dict.fromkeys(NUMBERS, "i64")}
"""What threads are told: name -> type."""

VECTOR = f"<{LANES} x float>"
AT_ONCE = 64
"""Columns of the result whose sums are in registers."""


@cache
def attention(width: int) -> Any:
    """Compiled attention for heads of so many columns, a multiple of `LANES`.

    It is called with addresses: q (N, heads x shared, D), k and v (N, heads, D), their heads one after the other; keys
    and values (N, heads, capacity, D), which get k and v at `position`; the result (N, heads x shared, D); room for
    N x heads x (capacity + LANES) scores; where each row starts (N,), int64, `position` at most. Then with N, heads,
    how many queries share one, the capacity, the position, which is below it; how far the rows of q, k and v lie
    apart, in numbers; threads.

    Raises:
        RuntimeError: LLVM cannot make code here.
        ValueError: a width that is no multiple of `LANES`.
    """
    if width % LANES:
        raise ValueError(f"heads of {width} columns are no whole vectors of {LANES}")
    parts = [_exponential(), _query(width), _some(width), threads.share(TASK, _parts), _run()]
    declared = [*threads.declared(), "declare float @llvm.maxnum.f32(float, float)"]
    declared += [f"declare float @llvm.vector.reduce.fadd.v{LANES}f32(float, {VECTOR})"]
    declared += [f"declare {VECTOR} @llvm.rint.v{LANES}f32({VECTOR})"]
    declared += [f"declare <{LANES} x i32> @llvm.fptosi.sat.v{LANES}i32.v{LANES}f32({VECTOR})"]
    code = MachineCode("\n".join([*declared, *parts]))
    call = code.function("run", *[ctypes.c_void_p] * len(POINTERS), *[ctypes.c_int64] * (len(NUMBERS) + 1))
    call.code = code  # which goes when nobody holds it
    return call


def _parts(f: Function, given: threads.Given) -> str:
    """Rows times heads of keys."""
    return f.times(given["rows"], given["heads"])


def _run() -> str:
    """All of it."""
    f = Function("run", {**TASK, "threads": "i64"}, seen=True)
    given = {name: f"%{name}" for name in TASK}
    threads.run(f, TASK, given, _parts(f, given), "%threads")
    return f.text()


def _some(width: int) -> str:
    """Parts `first` to `last`: the new key and value, then every query."""
    f = Function("some", {**TASK, "first": "i64", "last": "i64"})
    with f.loop("%first", "%last") as part:
        row, head = f(f"sdiv i64 {part}, %heads"), f(f"srem i64 {part}, %heads")
        here, place = f.times(f.times(part, "%capacity"), width), f.times("%position", width)
        keys, values = (f.at(f"%{name}", "float", here) for name in ("keys", "values"))
        for name, cached in (("k", keys), ("v", values)):
            given = f.at(f"%{name}", "float", f.plus(f.times(row, f"%{name}_row"), f.times(head, width)))
            to = f.at(cached, "float", place)
            for index in range(width // LANES):
                f.store(VECTOR, f.load(VECTOR, given, index), to, index)
        scores = f.at("%scores", "float", f.times(part, f.plus("%capacity", LANES)))
        first, last = f.load("i64", "%starts", row), f.plus("%position", 1)
        with f.loop(0, "%shared") as one:
            query = f.plus(f.times(head, "%shared"), one)
            q = f.at("%q", "float", f.plus(f.times(row, "%q_row"), f.times(query, width)))
            of_row = f.times(f.times("%heads", "%shared"), row)
            out = f.at("%out", "float", f.times(f.plus(of_row, query), width))
            f.do(
                f"call void @query(ptr {q}, ptr {keys}, ptr {values}, ptr {out}, ptr {scores}, i64 {first}, i64 {last})"
            )
    return f.text()


def _query(width: int) -> str:
    """One query over the places `first` to `last`."""
    pointers = dict.fromkeys(("q", "keys", "values", "out", "scores"), "ptr")
    f = Function("query", {**pointers, "first": "i64", "last": "i64"})
    vectors, scale = width // LANES, single(width**-0.5)
    most, total = f.place("float"), f.place(VECTOR)
    f.store("float", single(float("-inf")), most)
    f.store(VECTOR, constant("float", single(0), LANES), total)
    with f.loop("%first", "%last") as place:
        key = f.at("%keys", "float", f.times(place, width))
        sums = ""
        for index in range(vectors):
            product = f(f"fmul contract {VECTOR} {f.load(VECTOR, '%q', index)}, {f.load(VECTOR, key, index)}")
            sums = f(f"fadd contract {VECTOR} {sums}, {product}") if sums else product
        score = f(f"fmul float {_total(f, sums)}, {scale}")
        f.store("float", score, "%scores", place)
        higher = f(f"call float @llvm.maxnum.f32(float {f.load('float', most)}, float {score})")
        f.store("float", higher, most)
    for index in range(LANES):  # what a last vector has beyond the end
        f.store("float", single(float("-inf")), f.at("%scores", "float", "%last"), index)
    with f.loop("%first", "%last", LANES) as place:
        at = f.at("%scores", "float", place)
        f.do(f"call void @exponential(ptr {at}, float {f.load('float', most)})")
        f.store(VECTOR, f(f"fadd {VECTOR} {f.load(VECTOR, total)}, {f.load(VECTOR, at)}"), total)
    share = _spread(f, f(f"fdiv float {single(1)}, {_total(f, f.load(VECTOR, total))}"))
    for start in range(0, width, AT_ONCE):
        sums_of = [f.place(VECTOR) for _ in range(start, min(width, start + AT_ONCE), LANES)]
        for one in sums_of:
            f.store(VECTOR, constant("float", single(0), LANES), one)
        with f.loop("%first", "%last") as place:
            value = f.at("%values", "float", f.plus(f.times(place, width), start))
            weight = _spread(f, f.load("float", "%scores", place))
            for index, one in enumerate(sums_of):
                product = f(f"fmul contract {VECTOR} {weight}, {f.load(VECTOR, value, index)}")
                f.store(VECTOR, f(f"fadd contract {VECTOR} {f.load(VECTOR, one)}, {product}"), one)
        for index, one in enumerate(sums_of):
            scaled = f(f"fmul {VECTOR} {f.load(VECTOR, one)}, {share}")
            f.store(VECTOR, scaled, f.at("%out", "float", start), index)
    return f.text()


LOG_2 = (0.693359375, -2.12194440e-4)
"""ln 2 as a number of few bits and what it lacks."""

POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""(e^r - 1 - r) / r^2, from the highest power on."""

LEAST = -87.0
"""Below it e^x is taken for e^LEAST, 1.6e-38: 2^n is a normal number down to there."""


def _exponential() -> str:
    """e^(x - most) of `LANES` numbers, in their place."""
    f = Function("exponential", {"x": "ptr", "most": "float"})

    def all_of(value: float) -> str:
        return constant("float", single(value), LANES)

    x = f(f"fsub {VECTOR} {f.load(VECTOR, '%x')}, {_spread(f, '%most')}")
    low = f(f"fcmp olt {VECTOR} {x}, {all_of(LEAST)}")
    x = f(f"select <{LANES} x i1> {low}, {VECTOR} {all_of(LEAST)}, {VECTOR} {x}")
    scaled = f(f"fmul {VECTOR} {x}, {all_of(1.44269504088896341)}")
    whole = f(f"call {VECTOR} @llvm.rint.v{LANES}f32({VECTOR} {scaled})")
    for part in LOG_2:
        x = f(f"fsub contract {VECTOR} {x}, {f(f'fmul contract {VECTOR} {whole}, {all_of(part)}')}")
    value = all_of(POLYNOMIAL[0])
    for factor in POLYNOMIAL[1:]:
        value = f(f"fadd contract {VECTOR} {f(f'fmul contract {VECTOR} {value}, {x}')}, {all_of(factor)}")
    square = f(f"fmul {VECTOR} {x}, {x}")
    value = f(f"fadd contract {VECTOR} {f(f'fmul contract {VECTOR} {value}, {square}')}, {x}")
    value = f(f"fadd {VECTOR} {value}, {all_of(1)}")
    numbers = f"<{LANES} x i32>"
    power = f(f"call {numbers} @llvm.fptosi.sat.v{LANES}i32.v{LANES}f32({VECTOR} {whole})")
    power = f(f"add {numbers} {power}, {constant('i32', 127, LANES)}")
    power = f(f"shl {numbers} {power}, {constant('i32', 23, LANES)}")
    power = f(f"bitcast {numbers} {power} to {VECTOR}")
    f.store(VECTOR, f(f"fmul {VECTOR} {value}, {power}"), "%x")
    return f.text()


def _total(f: Function, sums: str) -> str:
    """The sum of a vector, in any order."""
    return f(f"call reassoc float @llvm.vector.reduce.fadd.v{LANES}f32(float {single(0)}, {VECTOR} {sums})")


def _spread(f: Function, value: str) -> str:
    """A vector that has a number everywhere."""
    first = f(f"insertelement {VECTOR} poison, float {value}, i64 0")
    return f.pick("float", LANES, first, [0] * LANES)
