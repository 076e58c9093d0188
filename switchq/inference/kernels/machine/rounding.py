"""The activations of a token as integers."""

from collections.abc import Iterator

from switchq.inference.kernels.machine.text import Function, single
from switchq.inference.kernels.machine.weight import Weight, behind, largest
from switchq.inference.kernels.packing import Layout

TINY = single(1e-30)
"""The least that the largest activation is taken for."""


def rounded(layout: Layout) -> str:
    """Round the activations of all tokens."""
    f = Function("rounded", {"weight": "ptr", "x": "ptr", "room": "ptr", "tokens": "i64"})
    weight = Weight.read(f)
    span = f.times(weight.blocks, layout.block)
    most, total = f.place("i32"), f.place("i64")
    with f.loop(0, "%tokens") as token:
        x = f.at("%x", "float", f.times(token, weight.inputs))
        room = f.at("%room", "i8", f.times(token, weight.stride))
        f.do(f"call void @llvm.memset.p0.i64(ptr {room}, i8 0, i64 {weight.stride}, i1 false)")
        f.store("i32", f(f"bitcast float {TINY} to i32"), most)
        with f.loop(0, weight.inputs) as i:  # the bits of floats without their signs are in the order of the floats
            bits = f(f"and i32 {f.load('i32', x, i)}, {2**31 - 1}")
            f.store("i32", f(f"call i32 @llvm.umax.i32(i32 {bits}, i32 {f.load('i32', most)})"), most)
        length = f(f"bitcast i32 {f.load('i32', most)} to float")
        steps = f(f"fdiv float {largest(layout)}, {length}")
        sums = f.at(room, "float", behind(f, layout, weight))
        with f.loop(0, weight.groups) as group:
            bundle, beside = f(f"udiv i64 {group}, {layout.side}"), f(f"urem i64 {group}, {layout.side}")
            made = f.at(room, "i16", f.times(bundle, f.times(span, layout.side)))
            lower = f.at(made, "i8", f.times(span, layout.side))
            given = f.at(x, "float", f.times(group, weight.size))
            f.store("i64", 0, total)
            for first, last, start in _stretches(f, layout, weight, beside):
                with f.loop(first, last) as i:
                    scaled = f(f"fmul float {f.load('float', given, i)}, {steps}")
                    nearest = f(f"call float @llvm.rint.f32(float {scaled})")
                    whole = f(f"call i32 @llvm.fptosi.sat.i32.f32(float {nearest})")
                    f.store("i64", f.plus(f.load("i64", total), f(f"sext i32 {whole} to i64")), total)
                    _keep(f, layout, whole, (made, lower), f.plus(start, i))
            f.store("float", f(f"sitofp i64 {f.load('i64', total)} to float"), sums, group)
        f.store("float", f(f"fdiv float {length}, {largest(layout)}"), sums, weight.laid)
    return f.text()


def _stretches(f: Function, layout: Layout, weight: Weight, beside: str) -> Iterator[tuple[int, str, str | int]]:
    """First and last columns of a group that lie one after the other, and how much further on they lie in the room."""
    if layout.side == 1:
        yield 0, weight.size, 0
        return
    own = f.times(beside, layout.width)
    for first in range(0, layout.block, layout.width):
        last = f(f"call i64 @llvm.smin.i64(i64 {weight.size}, i64 {first + layout.width})")
        yield first, last, f.plus(own, first * (layout.side - 1))


def _keep(f: Function, layout: Layout, whole: str, places: tuple[str, str], index: str) -> None:
    """Store a rounded activation, or its halves."""
    if layout.field == 8:
        f.store("i16", f(f"trunc i32 {whole} to i16"), places[0], index)
        return
    high = f(f"ashr i32 {f(f'add i32 {whole}, 128')}, 8")
    f.store("i8", f(f"trunc i32 {high} to i8"), places[0], index)
    f.store("i8", f(f"trunc i32 {whole} to i8"), places[1], index)
