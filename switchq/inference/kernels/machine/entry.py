"""A product as a whole: activations are rounded, then the rows are shared out."""

import ctypes
from functools import cache
from typing import Any

from switchq.inference.kernels.machine import pairs, threads
from switchq.inference.kernels.machine.compiled import MachineCode, converts_halves
from switchq.inference.kernels.machine.rounding import rounded
from switchq.inference.kernels.machine.rows import LANES, finished, rows
from switchq.inference.kernels.machine.text import Function
from switchq.inference.kernels.machine.weight import TOGETHER, Weight
from switchq.inference.kernels.packing import Layout

TASK = {**dict.fromkeys(("weight", "room", "y", "bias", "sums"), "ptr"), "tokens": "i64"}
"""What threads are told: name -> type."""


@cache
def product(layout: Layout, alone: bool) -> Any:
    """The compiled product of a layout, for rows of one group `alone` or of any number.

    It is called with addresses and numbers: the constants, x (N, I), y (N, O), the bias (O,) or 0, room for N tokens
    and, for a single one, for O sums behind it, N, threads. Several tokens' sums lie in y until they are finished.

    Raises:
        RuntimeError: LLVM cannot make code here, or the processor does not know float16.
    """
    if not converts_halves():
        raise RuntimeError("this processor does not convert float16")
    parts = [rounded(layout), rows(layout, 1, alone), rows(layout, TOGETHER, alone), finished(layout) if alone else ""]
    parts += [_some(alone), threads.share(TASK, _outputs), _run()]
    declared = threads.declared()
    declared += ["declare float @llvm.rint.f32(float)", "declare i32 @llvm.umax.i32(i32, i32)"]
    declared += ["declare i32 @llvm.fptosi.sat.i32.f32(float)", "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"]
    declared += ["declare i64 @llvm.smin.i64(i64, i64)"]
    declared += [f"declare float @llvm.vector.reduce.fadd.v{LANES}f32(float, <{LANES} x float>)"]
    code = MachineCode("\n".join([*declared, *pairs.declared(), *parts]))
    place, number = ctypes.c_void_p, ctypes.c_int64
    call = code.function("run", place, place, place, place, place, number, number)
    call.code = code  # which goes when nobody holds it
    return call


@cache
def adapted() -> Any:
    """A compiled product of one token and its adapter's two, one after the other.

    It is called with the addresses of three links, each of them a product's `run` and its constants: the weight's, the
    adapter's first factor's and its second's; then x (I,), y (O,), the bias (O,) or 0, room for the largest of the
    products, for what the first factor gives (R,) and for what the weight gives (O,); the threads of each product.
    """
    names, counts = ("weight", "low", "high", "x", "y", "bias", "room", "inner", "own"), ("many", "few", "some")
    f = Function("adapted", {**dict.fromkeys(names, "ptr"), **dict.fromkeys(counts, "i64")}, seen=True)
    for link, given, count in (
        ("weight", "ptr %x, ptr %own, ptr %bias", "many"),
        ("low", "ptr %x, ptr %inner, ptr null", "few"),
        ("high", "ptr %inner, ptr %y, ptr %own", "some"),
    ):
        run, constants = (f.load("ptr", f"%{link}", index) for index in range(2))
        f.do(f"call void {run}(ptr {constants}, {given}, ptr %room, i64 1, i64 %{count})")
    code = MachineCode(f.text())
    call = code.function("adapted", *[ctypes.c_void_p] * len(names), *[ctypes.c_int64] * len(counts))
    call.code = code
    return call


def _some(alone: bool) -> str:
    """Rows `first` to `last`, of all tokens."""
    f = Function("some", {**TASK, "first": "i64", "last": "i64"})
    full = f(f"and i64 %tokens, {-TOGETHER}")
    given = "ptr %weight, ptr %room, ptr %y, ptr %bias, ptr %sums"
    f.do(f"call void @rows{TOGETHER}({given}, i64 0, i64 {full}, i64 %first, i64 %last)")
    f.do(f"call void @rows1({given}, i64 {full}, i64 %tokens, i64 %first, i64 %last)")
    if alone:
        f.do(f"call void @finished({given}, i64 0, i64 %tokens, i64 %first, i64 %last)")
    return f.text()


def _outputs(f: Function, given: threads.Given) -> str:
    """Rows of the weight."""
    return f.load("i64", given["weight"], Weight._fields.index("outputs"))


def _run() -> str:
    """All of it."""
    pointers = {name: "ptr" for name in ("weight", "x", "y", "bias", "room")}
    f = Function("run", {**pointers, "tokens": "i64", "threads": "i64"}, seen=True)
    f.do("call void @rounded(ptr %weight, ptr %x, ptr %room, i64 %tokens)")
    behind = f.at("%room", "i8", f.load("i64", "%weight", Weight._fields.index("stride")))
    sums = f(f"select i1 {f('icmp eq i64 %tokens, 1')}, ptr {behind}, ptr %y")
    given = {name: f"%{name}" for name in TASK} | {"sums": sums}
    threads.run(f, TASK, given, _outputs(f, given), "%threads")
    return f.text()
