"""A product as a whole: activations are rounded, then the rows are shared out.

Threads are those of PyTorch's own pool (GNU's OpenMP, where PyTorch was built with it), so that the two do not get into
each other's way.
"""

import ctypes
from functools import cache
from typing import Any

from switchq.inference.kernels.machine import pairs
from switchq.inference.kernels.machine.compiled import POOL, MachineCode, converts_halves, shares_threads
from switchq.inference.kernels.machine.rounding import rounded
from switchq.inference.kernels.machine.rows import LANES, finished, rows
from switchq.inference.kernels.machine.text import Function
from switchq.inference.kernels.machine.weight import TOGETHER, Weight
from switchq.inference.kernels.packing import Layout

TASK = ("weight", "room", "y", "bias", "sums", "tokens")
"""What threads are told, in places of 64 bits."""


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
    pool = shares_threads()
    parts = [rounded(layout), rows(layout, 1, alone), rows(layout, TOGETHER, alone), finished(layout) if alone else ""]
    parts += [_some(alone), _share() if pool else "", _run(pool)]
    declared = [f"declare {kind.replace(' (', f' @{name}(')}" for name, kind in POOL.items() if pool]
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
    names, threads = ("weight", "low", "high", "x", "y", "bias", "room", "inner", "own"), ("many", "few", "some")
    f = Function("adapted", {**dict.fromkeys(names, "ptr"), **dict.fromkeys(threads, "i64")}, seen=True)
    for link, given, count in (
        ("weight", "ptr %x, ptr %own, ptr %bias", "many"),
        ("low", "ptr %x, ptr %inner, ptr null", "few"),
        ("high", "ptr %inner, ptr %y, ptr %own", "some"),
    ):
        run, constants = (f.load("ptr", f"%{link}", index) for index in range(2))
        f.do(f"call void {run}(ptr {constants}, {given}, ptr %room, i64 1, i64 %{count})")
    code = MachineCode(f.text())
    call = code.function("adapted", *[ctypes.c_void_p] * len(names), *[ctypes.c_int64] * len(threads))
    call.code = code
    return call


def _some(alone: bool) -> str:
    """Rows `first` to `last`, of all tokens."""
    f = Function(
        "some", {**{name: "ptr" for name in TASK[:-1]}, **{name: "i64" for name in ("tokens", "first", "last")}}
    )
    full = f(f"and i64 %tokens, {-TOGETHER}")
    given = "ptr %weight, ptr %room, ptr %y, ptr %bias, ptr %sums"
    f.do(f"call void @rows{TOGETHER}({given}, i64 0, i64 {full}, i64 %first, i64 %last)")
    f.do(f"call void @rows1({given}, i64 {full}, i64 %tokens, i64 %first, i64 %last)")
    if alone:
        f.do(f"call void @finished({given}, i64 0, i64 %tokens, i64 %first, i64 %last)")
    return f.text()


def _share() -> str:
    """What one of a pool's threads does: its part of the rows."""
    f = Function("share", {"task": "ptr"})
    kinds = ["ptr"] * (len(TASK) - 1) + ["i64"]
    task = [f.load(kind, "%task", index, "i64") for index, kind in enumerate(kinds)]
    outputs = f.load("i64", task[0], Weight._fields.index("outputs"))
    me, all_of_us = (f(f"sext i32 {f(f'call i32 @omp_get_{what}()')} to i64") for what in ("thread_num", "num_threads"))
    first, last = (f(f"sdiv i64 {f.times(outputs, one)}, {all_of_us}") for one in (me, f.plus(me, 1)))
    given = ", ".join(f"{kind} {value}" for kind, value in zip(kinds, task, strict=True))
    f.do(f"call void @some({given}, i64 {first}, i64 {last})")
    return f.text()


def _run(pool: bool) -> str:
    """All of it."""
    pointers = {name: "ptr" for name in ("weight", "x", "y", "bias", "room")}
    f = Function("run", {**pointers, "tokens": "i64", "threads": "i64"}, seen=True)
    f.do("call void @rounded(ptr %weight, ptr %x, ptr %room, i64 %tokens)")
    outputs = f.load("i64", "%weight", Weight._fields.index("outputs"))
    behind = f.at("%room", "i8", f.load("i64", "%weight", Weight._fields.index("stride")))
    sums = f(f"select i1 {f('icmp eq i64 %tokens, 1')}, ptr {behind}, ptr %y")
    alone = f"call void @some(ptr %weight, ptr %room, ptr %y, ptr %bias, ptr {sums}, i64 %tokens, i64 0, i64 {outputs})"
    if not pool:
        f.do(alone)
        return f.text()
    with f.when(f("icmp sgt i64 %threads, 1")):
        task = f.place("i64", len(TASK))
        for index, name in enumerate(TASK):
            value = sums if name == "sums" else f"%{name}"
            f.store("i64" if name == "tokens" else "ptr", value, f.at(task, "i64", index))
        count = f("trunc i64 %threads to i32")
        f.do(f"call void @GOMP_parallel(ptr @share, ptr {task}, i32 {count}, i32 0)")
    with f.when(f("icmp sle i64 %threads, 1")):
        f.do(alone)
    return f.text()
