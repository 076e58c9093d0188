"""Results of some rows for some tokens."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain

from switchq.inference.kernels.machine import pairs
from switchq.inference.kernels.machine.text import Function, constant
from switchq.inference.kernels.machine.weight import Weight, behind
from switchq.inference.kernels.packing import VECTOR, Layout

LANES = 8
"""Sums that lie beside each other."""

VECTOR_OF_SUMS = f"<{LANES} x float>"


def rows(layout: Layout, together: int, alone: bool) -> str:
    """Results of rows `first` to `last` for tokens `from` to `to`, so many at a time.

    Where a row has one group `alone`, its sum of codes times activations in `sums`, with which `finished` goes on.
    """
    arguments = {name: "ptr" for name in ("weight", "room", "y", "bias", "sums")}
    f = Function(f"rows{together}", {**arguments, **{name: "i64" for name in ("from", "to", "first", "last")}})
    weight, tokens = Weight.read(f), range(together)
    dots = _Wide(layout) if layout.field == 8 else _Narrow(layout)
    columns = f.times("1" if layout.single else weight.blocks, layout.block * layout.side)
    of_row, of_group = ([f.place(VECTOR_OF_SUMS) for _ in tokens] for _ in range(2))
    with f.loop("%first", "%last") as row, f.loop("%from", "%to", together) as token:
        codes = f.at(weight.codes, "i8", f.times(row, weight.row))
        scales = f.at(weight.scales, "half", f.times(row, weight.laid))
        rooms = [f.at("%room", "i8", f.times(f.plus(token, number), weight.stride)) for number in tokens]
        for number in tokens:
            f.store(VECTOR_OF_SUMS, "zeroinitializer", of_row[number])
        with nullcontext("0") if alone else f.loop(0, f(f"udiv i64 {weight.laid}, {layout.side}")) as bundle:
            for number in tokens:
                f.store(VECTOR_OF_SUMS, "zeroinitializer", of_group[number])
            for block, run in _blocks(f, layout, weight, dots.run if together == 1 else 1):
                place = bundle if layout.single else f.plus(f.times(bundle, weight.blocks), block)
                packed = f.at(codes, "i8", f.times(place, layout.side * layout.width))
                taken = [
                    dots.taken_apart(f, f.at(packed, "i8", one * layout.side * layout.width)) for one in range(run)
                ]
                for number in tokens:
                    room = f.at(rooms[number], "i16", f.times(bundle, columns))
                    _add(f, VECTOR_OF_SUMS, dots.sums(f, taken, room, block, columns), of_group[number])
            scale = None if alone else _scales(f, layout, scales, bundle)
            for number in tokens:
                one = f.load(VECTOR_OF_SUMS, of_group[number])
                _add(
                    f, VECTOR_OF_SUMS, f(f"fmul fast {VECTOR_OF_SUMS} {one}, {scale}") if scale else one, of_row[number]
                )
        found = [f.load(VECTOR_OF_SUMS, one) for one in of_row]
        if alone:
            for number, one in enumerate(found):
                f.store("float", _total(f, "0.0", one), "%sums", _place(f, weight, token, number, row))
        else:
            _results(f, layout, weight, rooms, found, row, token)
    return f.text()


def _results(
    f: Function, layout: Layout, weight: Weight, rooms: list[str], found: list[str], row: str, token: str
) -> None:
    """Store a row's results for the token of each room; their scaled sums of codes times activations are given."""
    sums = [f.at(room, "float", behind(f, layout, weight)) for room in rooms]
    rest, bias = [f.place("float") for _ in rooms], f.place("float")
    scales, offsets = (f.at(one, "half", f.times(row, weight.laid)) for one in (weight.scales, weight.offsets))
    lowest = f(f"sitofp i64 {weight.lowest} to float")
    for one in (*rest, bias):
        f.store("float", "0.0", one)
    with f.loop(0, weight.groups) as group:
        scale, offset = (f(f"fpext half {f.load('half', one, group)} to float") for one in (scales, offsets))
        left = f(f"fsub fast float {offset}, {f(f'fmul fast float {scale}, {lowest}')}")
        for one, own in zip(rest, sums, strict=True):
            _add(f, "float", f(f"fmul fast float {left}, {f.load('float', own, group)}"), one)
    with f.when(f("icmp ne ptr %bias, null")):
        f.store("float", f.load("float", "%bias", row), bias)
    for number, own in enumerate(sums):
        whole = _total(f, f.load("float", rest[number]), found[number])
        scaled = f(f"fmul float {whole}, {f.load('float', own, weight.laid)}")
        result = f(f"fadd float {scaled}, {f.load('float', bias)}")
        f.store("float", result, "%y", _place(f, weight, token, number, row))


def finished(layout: Layout) -> str:
    """Results of rows `first` to `last` for tokens `from` to `to` from the sums that `rows` left: eight at a time."""
    arguments = {name: "ptr" for name in ("weight", "room", "y", "bias", "sums")}
    f = Function("finished", {**arguments, **{name: "i64" for name in ("from", "to", "first", "last")}})
    weight = Weight.read(f)
    lowest = f(f"sitofp i64 {weight.lowest} to float")
    count = f("sub i64 %last, %first")
    whole = f(f"sub i64 %last, {f(f'urem i64 {count}, {LANES}')}")
    with f.loop("%from", "%to") as token:
        room = f.at("%room", "i8", f.times(token, weight.stride))
        own = f.at(room, "float", behind(f, layout, weight))
        total, step = f.load("float", own), f.load("float", own, weight.laid)
        found, y = (f.at(one, "float", f.times(token, weight.outputs)) for one in ("%sums", "%y"))
        for first, last, lanes in (("%first", whole, LANES), (whole, "%last", 1)):
            kind, half = (f"<{lanes} x {one}>" for one in ("float", "half"))
            by_step, by_total, by_lowest = (_everywhere(f, one, lanes) for one in (step, total, lowest))
            bias = f.place(kind)
            f.store(kind, "zeroinitializer", bias)
            with f.loop(first, last, lanes) as row:
                scale, offset = (
                    f(f"fpext {half} {f.load(half, one, row, 'half')} to {kind}")
                    for one in (weight.scales, weight.offsets)
                )
                left = f(f"fsub fast {kind} {offset}, {f(f'fmul fast {kind} {scale}, {by_lowest}')}")
                coded = f(f"fmul fast {kind} {scale}, {f.load(kind, found, row, 'float')}")
                both = f(f"fadd fast {kind} {coded}, {f(f'fmul fast {kind} {left}, {by_total}')}")
                with f.when(f("icmp ne ptr %bias, null")):
                    f.store(kind, f.load(kind, "%bias", row, "float"), bias)
                result = f(f"fadd {kind} {f(f'fmul {kind} {both}, {by_step}')}, {f.load(kind, bias)}")
                f.do(f"store {kind} {result}, ptr {f.at(y, 'float', row)}, align 1")
    return f.text()


def _place(f: Function, weight: Weight, token: str, number: int, row: str) -> str:
    """Where the result of a row is, of the token so many behind `token`."""
    return f.plus(f.times(f.plus(token, number), weight.outputs), row)


def _everywhere(f: Function, value: str, lanes: int) -> str:
    """A vector of a float."""
    one = f(f"insertelement <{lanes} x float> poison, float {value}, i32 0")
    return f.pick("float", lanes, one, [0] * lanes)


def _total(f: Function, start: str, vector: str) -> str:
    """A float and all of a vector, in any order."""
    given = f"float {start}, {VECTOR_OF_SUMS} {vector}"
    return f(f"call fast float @llvm.vector.reduce.fadd.v{LANES}f32({given})")


def _blocks(f: Function, layout: Layout, weight: Weight, run: int) -> Iterator[tuple[str, int]]:
    """Inside each turn, what runs for blocks of a group: the first of them, and how many are summed at once."""
    if layout.single:
        yield "0", 1
        return
    whole = f(f"sub i64 {weight.blocks}, {f(f'urem i64 {weight.blocks}, {run}')}")
    for first, last, step in ((0, whole, run), (whole, weight.blocks, 1)):
        with f.loop(first, last, step) as block:
            yield block, step
        if run == 1:
            return


def _add(f: Function, kind: str, value: str, place: str) -> None:
    """Add floats to those at a place, in any order."""
    f.store(kind, f(f"fadd fast {kind} {f.load(kind, place)}, {value}"), place)


def _scales(f: Function, layout: Layout, scales: str, bundle: str) -> str:
    """What the sums of groups that lie side by side are multiplied with."""
    side = layout.side
    halves = f.load(f"<{side} x half>", scales, f.times(bundle, side), "half")
    floats = f(f"fpext <{side} x half> {halves} to <{side} x float>")
    return f.pick("float", side, floats, [lane * side // LANES for lane in range(LANES)])


class _Wide:
    """Products of 16 bits, whose sums of 32 hold 64 blocks of 8 x 32767 x 128.

    Args:
        layout: of 8 bits a code.

    Attributes:
        run: blocks that are summed in integers at once.
    """

    run = 1

    def __init__(self, layout: Layout) -> None:
        self.block = layout.block

    def taken_apart(self, f: Function, codes: str) -> list[str]:
        """The codes of a block, in vectors."""
        return [
            f(f"sext <16 x i8> {f.load('<16 x i8>', codes, first, 'i8')} to <16 x i16>")
            for first in range(0, self.block, 16)
        ]

    def sums(self, f: Function, codes: list[list[str]], room: str, block: str, columns: str) -> str:
        """The sums of blocks' products, as floats.

        Args:
            f: where to write it.
            codes: what `taken_apart` gave, of each of the blocks.
            room: where the rounded activations of the groups are that lie side by side.
            block: number of the first among theirs.
            columns: of all these groups.
        """
        x, total = f.at(room, "i16", f.times(block, self.block)), "zeroinitializer"
        for number, code in enumerate(chain.from_iterable(codes)):
            found = pairs.of_16_bits(f, code, f.load("<16 x i16>", x, 16 * number, "i16"))
            total = f(f"add <{LANES} x i32> {total}, {found}")
        return f(f"sitofp <{LANES} x i32> {total} to <{LANES} x float>")


class _Narrow:
    """Products of 8 bits, of each half of the activations; arguments, methods and attributes as for `_Wide`.

    A block adds up to 2 x 15 x 128 of codes of 4 bits to a sum of 16 bits, twice, which holds that of four blocks; and
    2 x 3 x 128 of 2 bits, four times, which it holds of ten.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.run = layout, 4 if layout.field == 4 else 2

    def taken_apart(self, f: Function, codes: str) -> list[str]:
        kind, field, found = f"<{VECTOR} x i8>", self.layout.field, []
        packed = f.load(kind, codes)
        for shift in range(0, 8, field):
            part = f(f"lshr {kind} {packed}, {constant('i8', shift, VECTOR)}") if shift else packed
            if shift + field < 8:
                part = f(f"and {kind} {part}, {constant('i8', 2**field - 1, VECTOR)}")
            found.append(part)
        return found

    def sums(self, f: Function, codes: list[list[str]], room: str, block: str, columns: str) -> str:
        layout, half, total = self.layout, VECTOR // 2, "zeroinitializer"
        for lower, weight in enumerate((256, 1)):
            x = f.at(room, "i8", f.plus(f.times(block, layout.block * layout.side), f.times(columns, lower)))
            products = "zeroinitializer"
            for number, code in enumerate(chain.from_iterable(codes)):
                given = f.load(f"<{VECTOR} x i8>", x, number * VECTOR, "i8")
                products = f(f"add <{half} x i16> {products}, {pairs.of_8_bits(f, code, given)}")
            found = pairs.of_16_bits(f, products, constant("i16", weight, half))
            total = f(f"add <{LANES} x i32> {total}, {found}")
        return f(f"sitofp <{LANES} x i32> {total} to <{LANES} x float>")
