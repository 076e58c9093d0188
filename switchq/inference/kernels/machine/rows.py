"""Results of some rows for some tokens."""

from contextlib import nullcontext

from switchq.inference.kernels.machine import pairs
from switchq.inference.kernels.machine.text import Function, constant
from switchq.inference.kernels.machine.weight import Weight
from switchq.inference.kernels.packing import VECTOR, Layout

LANES = 8
"""Sums that lie beside each other."""


def rows(layout: Layout, together: int) -> str:
    """Results of rows `first` to `last` for tokens `from` to `to`, so many at a time."""
    arguments = {name: "ptr" for name in ("weight", "room", "y", "bias")}
    f = Function(f"rows{together}", {**arguments, **{name: "i64" for name in ("from", "to", "first", "last")}})
    weight, tokens = Weight.read(f), range(together)
    dots = _Wide(layout) if layout.field == 8 else _Narrow(layout)
    columns = f.times("1" if layout.single else weight.blocks, layout.block * layout.side)
    lowest = f(f"sitofp i64 {weight.lowest} to float")
    vector = f"<{LANES} x float>"
    of_row, of_group = ([f.place(vector) for _ in tokens] for _ in range(2))
    rest, bias = [f.place("float") for _ in tokens], f.place("float")
    with f.loop("%first", "%last") as row, f.loop("%from", "%to", together) as token:
        codes = f.at(weight.codes, "i8", f.times(row, weight.row))
        scales, offsets = (f.at(one, "half", f.times(row, weight.laid)) for one in (weight.scales, weight.offsets))
        rooms = [f.at("%room", "i8", f.times(f.plus(token, number), weight.stride)) for number in tokens]
        sums = [f.at(room, "i16", f.times(f.times(weight.laid, weight.blocks), layout.block)) for room in rooms]
        for number in tokens:
            f.store(vector, "zeroinitializer", of_row[number])
            f.store("float", "0.0", rest[number])
        with f.loop(0, f(f"udiv i64 {weight.laid}, {layout.side}")) as bundle:
            for number in tokens:
                f.store(vector, "zeroinitializer", of_group[number])
            with nullcontext("0") if layout.single else f.loop(0, weight.blocks) as block:
                place = bundle if layout.single else f.plus(f.times(bundle, weight.blocks), block)
                taken = dots.taken_apart(f, f.at(codes, "i8", f.times(place, layout.side * layout.width)))
                for number in tokens:
                    room = f.at(rooms[number], "i16", f.times(bundle, columns))
                    found = dots.sums(f, taken, room, block, columns)
                    _add(f, vector, found, of_group[number])
            scale = _scales(f, layout, scales, bundle)
            for number in tokens:
                _add(f, vector, f(f"fmul fast {vector} {f.load(vector, of_group[number])}, {scale}"), of_row[number])
        with f.loop(0, weight.groups) as group:
            scale, offset = (f(f"fpext half {f.load('half', one, group)} to float") for one in (scales, offsets))
            left = f(f"fsub fast float {offset}, {f(f'fmul fast float {scale}, {lowest}')}")
            for number in tokens:
                _add(f, "float", f(f"fmul fast float {left}, {f.load('float', sums[number], group)}"), rest[number])
        f.store("float", "0.0", bias)
        with f.when(f("icmp ne ptr %bias, null")):
            f.store("float", f.load("float", "%bias", row), bias)
        for number in tokens:
            lasts = f"float {f.load('float', rest[number])}, {vector} {f.load(vector, of_row[number])}"
            whole = f(f"call fast float @llvm.vector.reduce.fadd.v{LANES}f32({lasts})")
            scaled = f(f"fmul float {whole}, {f.load('float', sums[number], weight.laid)}")
            result = f(f"fadd float {scaled}, {f.load('float', bias)}")
            f.store("float", result, "%y", f.plus(f.times(f.plus(token, number), weight.outputs), row))
    return f.text()


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
    """Products of 16 bits.

    Args:
        layout: of 8 bits a code.
    """

    def __init__(self, layout: Layout) -> None:
        self.block = layout.block

    def taken_apart(self, f: Function, codes: str) -> list[str]:
        """The codes of a block, in vectors."""
        return [
            f(f"sext <16 x i8> {f.load('<16 x i8>', codes, first, 'i8')} to <16 x i16>")
            for first in range(0, self.block, 16)
        ]

    def sums(self, f: Function, codes: list[str], room: str, block: str, columns: str) -> str:
        """The sums of a block's products, as floats.

        Args:
            f: where to write it.
            codes: what `taken_apart` gave.
            room: where the rounded activations of the groups are that lie side by side.
            block: its number among theirs.
            columns: of all these groups.
        """
        x, total = f.at(room, "i16", f.times(block, self.block)), "zeroinitializer"
        for number, code in enumerate(codes):
            found = pairs.of_16_bits(f, code, f.load("<16 x i16>", x, 16 * number, "i16"))
            total = f(f"add <{LANES} x i32> {total}, {found}")
        return f(f"sitofp <{LANES} x i32> {total} to <{LANES} x float>")


class _Narrow:
    """Products of 8 bits, of each half of the activations; arguments and methods as for `_Wide`.

    A sum of 16 bits holds 2 x 15 x 128 of codes of 4 bits, twice, and 2 x 3 x 128 of 2 bits, four times.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def taken_apart(self, f: Function, codes: str) -> list[str]:
        kind, field, found = f"<{VECTOR} x i8>", self.layout.field, []
        packed = f.load(kind, codes)
        for shift in range(0, 8, field):
            part = f(f"lshr {kind} {packed}, {constant('i8', shift, VECTOR)}") if shift else packed
            if shift + field < 8:
                part = f(f"and {kind} {part}, {constant('i8', 2**field - 1, VECTOR)}")
            found.append(part)
        return found

    def sums(self, f: Function, codes: list[str], room: str, block: str, columns: str) -> str:
        layout, half, total = self.layout, VECTOR // 2, "zeroinitializer"
        for lower, weight in enumerate((256, 1)):
            x = f.at(room, "i8", f.plus(f.times(block, layout.block * layout.side), f.times(columns, lower)))
            products = "zeroinitializer"
            for number, code in enumerate(codes):
                given = f.load(f"<{VECTOR} x i8>", x, number * VECTOR, "i8")
                products = f(f"add <{half} x i16> {products}, {pairs.of_8_bits(f, code, given)}")
            found = pairs.of_16_bits(f, products, constant("i16", weight, half))
            total = f(f"add <{LANES} x i32> {total}, {found}")
        return f(f"sitofp <{LANES} x i32> {total} to <{LANES} x float>")
