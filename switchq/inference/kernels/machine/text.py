"""LLVM's intermediate representation, written line by line.

It says nothing of any processor: vectors of fixed length become the instructions that there are. Variables live in
places of memory, which LLVM turns into registers.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Function:
    """The text of a function without a result, while it is being written.

    Args:
        name: of the function.
        arguments: name -> type.
        seen: whether it can be called from outside of its module.
    """

    def __init__(self, name: str, arguments: Mapping[str, str], seen: bool = False) -> None:
        listed = ", ".join(f"{kind} %{argument}" for argument, kind in arguments.items())
        self._opening = f"define {'' if seen else 'internal '}void @{name}({listed}) {{\nentry:\n"
        self._places: list[str] = []
        self._lines: list[str] = ["br label %start", "start:"]
        self._count, self._block = 0, "start"

    def __call__(self, operation: str) -> str:
        """Add an operation; the name of its result."""
        name = self._new()
        self._lines.append(f"  {name} = {operation}")
        return name

    def do(self, operation: str) -> None:
        """Add an operation that has no result."""
        self._lines.append(f"  {operation}")

    def place(self, kind: str, count: int = 1) -> str:
        """Room for values of a type, for as long as the function runs."""
        name = self._new()
        self._places.append(f"  {name} = alloca {kind}, i64 {count}, align 64")
        return name

    def plus(self, one: str | int, other: str | int) -> str:
        """The sum of two numbers of 64 bits."""
        return self(f"add i64 {one}, {other}")

    def times(self, one: str | int, other: str | int) -> str:
        """The product of two numbers of 64 bits."""
        return self(f"mul i64 {one}, {other}")

    def at(self, base: str, kind: str, index: str | int) -> str:
        """Where an element is, of an array of `kind` that begins at `base`."""
        return self(f"getelementptr {kind}, ptr {base}, i64 {index}")

    def load(self, kind: str, base: str, index: str | int = 0, unit: str | None = None) -> str:
        """A value that lies at an index of an array of `unit` (or `kind`); it need not be aligned."""
        return self(f"load {kind}, ptr {self.at(base, unit or kind, index)}, align 1")

    def store(self, kind: str, value: str | int | float, base: str, index: str | int = 0) -> None:
        """The inverse of `load`."""
        self.do(f"store {kind} {value}, ptr {self.at(base, kind, index)}, align 1")

    @contextmanager
    def loop(self, first: str | int, last: str | int, step: int = 1) -> Iterator[str]:
        """Inside, what runs for first, first + step, ... as long as that is below `last`."""
        head, body, end = (self._new()[1:] for _ in range(3))
        before, index, following = self._block, self._new(), self._new()
        self._lines += [f"  br label %{head}", f"{head}:"]
        place = len(self._lines)
        self._go_on(body, f"  br i1 {self(f'icmp slt i64 {index}, {last}')}, label %{body}, label %{end}")
        yield index
        self.do(f"{following} = add i64 {index}, {step}")
        self._lines.insert(place, f"  {index} = phi i64 [{first}, %{before}], [{following}, %{self._block}]")
        self._go_on(end, f"  br label %{head}")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Inside, what runs if an i1 is true."""
        inside, end = self._new()[1:], self._new()[1:]
        self._go_on(inside, f"  br i1 {condition}, label %{inside}, label %{end}")
        yield
        self._go_on(end, f"  br label %{end}")

    def pick(self, element: str, count: int, vector: str, places: Sequence[int]) -> str:
        """The elements of a vector of `count` that are at these places."""
        mask = ", ".join(f"i32 {place}" for place in places)
        kind = f"<{count} x {element}>"
        return self(f"shufflevector {kind} {vector}, {kind} poison, <{len(places)} x i32> <{mask}>")

    def text(self) -> str:
        """The whole function."""
        return self._opening + "\n".join([*self._places, "  " + self._lines[0], *self._lines[1:], "  ret void", "}\n"])

    def _new(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _go_on(self, block: str, branch: str) -> None:
        self._lines += [branch, f"{block}:"]
        self._block = block


def constant(element: str, value: int | str, count: int) -> str:
    """A vector of `count` times the same number."""
    return f"<{', '.join([f'{element} {value}'] * count)}>"


def single(value: float) -> str:
    """The nearest number of 32 bits as LLVM writes it: by the bits of 64 that it would have."""
    (nearest,) = struct.unpack("f", struct.pack("f", value))
    return f"0x{struct.pack('>d', nearest).hex().upper()}"
