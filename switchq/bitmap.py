"""A bitmap: one bit-width per quantised layer, in model order.

| written            | means                                                                             |
|--------------------|-----------------------------------------------------------------------------------|
| `8`                | every layer at 8 bits                                                             |
| `8/4`              | a stripe: the widths in turn, layer by layer                                      |
| `8,4,8,...`        | one width for each layer                                                          |
| `attn=8,mlp=4`     | globs over dotted layer names, the later wins; a layer that none names stays at 16 |
| `@file.json`       | a list of widths, a `{layer name: width}` object, or either under the key `bitmap` |
"""

import fnmatch
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Self

from switchq.errors import UserError, reason
from switchq.words import count_of

FULL = 16
"""The width that stands for "not quantised"."""

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""The widths that a layer can be quantised to."""


def check_width(bits: object, full: bool = True) -> int:
    """Return `bits` as an int.

    Args:
        bits: a width, perhaps as text.
        full: whether `FULL` is one.

    Raises:
        UserError: if it is neither one of `WIDTHS` nor `FULL`.
    """
    takes = "2 to 8, or 16 for not quantised" if full else "2 to 8"
    try:
        width = int(str(bits))
    except ValueError:
        raise UserError(f"{bits!r} is not a bit-width: use {takes}") from None
    if width == FULL and not full:
        raise UserError(f"{FULL} bits means not quantised: use {takes}")
    if width not in (*WIDTHS, FULL):
        raise UserError(f"no bit-width {width}: use {takes}")
    return width


def check_rounded(widths: Iterable[int], full: str) -> None:
    """Make sure that the widths of an option `--bits` are ones to round to.

    Args:
        widths: as they were given.
        full: what `FULL` is to the command, for the message.

    Raises:
        UserError: one is not one of `WIDTHS`.
    """
    for width in widths:
        if width == FULL:
            raise UserError(f"--bits {FULL} is {full}: give widths from 2 to 8")
        check_width(width, full=False)


def ladder(widths: Iterable[int]) -> tuple[str, ...]:
    """The uniform bitmaps of `widths`, widest first, with the stripe of each neighbouring pair between them.

    >>> ladder([8, 4, 2])
    ('8', '8/4', '4', '4/2', '2')
    """
    ordered = sorted(set(widths), reverse=True)
    rungs = [str(ordered[0])]
    for upper, lower in zip(ordered, ordered[1:]):
        rungs += [f"{upper}/{lower}", str(lower)]
    return tuple(rungs)


class Bitmap(tuple[int, ...]):
    """An immutable, hashable sequence of bit-widths, one per quantised layer.

    >>> Bitmap.parse("8/4", ["h.0.attn", "h.0.mlp", "h.1.attn"])
    Bitmap('8/4')
    >>> list(Bitmap.parse("attn=8,mlp=2", ["h.0.attn", "h.0.mlp", "h.1.attn"]))
    [8, 2, 8]
    """

    __slots__ = ()

    def __new__(cls, widths: Iterable[int]) -> Self:
        bitmap = super().__new__(cls, [check_width(bits) for bits in widths])
        if not bitmap:
            raise UserError("a bitmap needs at least one bit-width")
        return bitmap

    @classmethod
    def stripe(cls, widths: Sequence[int], layers: int) -> Self:
        """`widths` in turn over `layers` layers; a single width gives the uniform bitmap."""
        return cls(islice(cycle(widths), layers))

    @classmethod
    def parse(cls, text: "str | int | Bitmap", names: Sequence[str]) -> Self:
        """Read any of the written forms for a model whose quantised layers are called `names`, in model order.

        Raises:
            UserError: a width out of range, a list of the wrong length, a glob that matches nothing, a file that
                cannot be read.
        """
        if isinstance(text, Bitmap):
            return cls._sized(text, names)
        written = str(text).strip()
        if written.startswith("@"):
            return cls._from_file(Path(written[1:]), names)
        if "=" in written:
            return cls._from_globs([item.partition("=")[::2] for item in written.split(",")], names)
        if "/" in written:
            return cls.stripe([check_width(item.strip()) for item in written.split("/")], len(names))
        if "," in written:
            return cls._sized([check_width(item.strip()) for item in written.split(",")], names)
        return cls.stripe([check_width(written)], len(names))

    @classmethod
    def _sized(cls, widths: Sequence[int], names: Sequence[str]) -> Self:
        if len(widths) != len(names):
            raise UserError(
                f"the bitmap has {count_of(len(widths), 'width')}, but this model has {len(names)} quantised layers "
                f"({names[0]} ... {names[-1]})"
            )
        return cls(widths)

    @classmethod
    def _from_globs(cls, rules: Sequence[Sequence[str]], names: Sequence[str]) -> Self:
        widths = [FULL] * len(names)
        for pattern, bits in rules:
            matched = [i for i, name in enumerate(names) if matches(name, pattern.strip())]
            if not matched:
                raise UserError(f"{pattern.strip()!r} matches no quantised layer; their names look like {names[0]!r}")
            for i in matched:
                widths[i] = check_width(bits.strip())
        return cls(widths)

    @classmethod
    def _from_file(cls, path: Path, names: Sequence[str]) -> Self:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the bitmap file {path}: {reason(error)}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"the bitmap file {path} is not JSON: {error}") from None
        if isinstance(content, Mapping) and "bitmap" in content:
            content = content["bitmap"]
        if isinstance(content, str) and not content.startswith("@"):
            return cls.parse(content, names)
        if isinstance(content, Mapping):
            return cls._from_globs([(str(name), str(bits)) for name, bits in content.items()], names)
        if isinstance(content, list):
            return cls._sized([check_width(bits) for bits in content], names)
        raise UserError(f"the bitmap file {path} holds neither a list of widths nor a {{layer: width}} object")

    def check_held(self, widths: Collection[int]) -> Self:
        """This bitmap, if what holds only `widths` can run at it.

        Raises:
            UserError: a width that is not among them.
        """
        missing = set(self) - set(widths)
        if missing:
            held = ", ".join(map(str, sorted(widths, reverse=True)))
            if FULL in missing:
                raise UserError(
                    f"there is nothing stored for {FULL} bits, only for {held}; layers that a bitmap does not name are "
                    f"at {FULL}"
                )
            raise UserError(f"there is nothing stored for {max(missing)} bits, only for {held}: export with that width")
        return self

    @property
    def period(self) -> tuple[int, ...]:
        """The shortest stripe that this bitmap repeats."""
        for length in range(1, len(self) + 1):
            if self == tuple(islice(cycle(self[:length]), len(self))):
                return tuple(self[:length])
        return tuple(self)

    def average_bits(self, sizes: Sequence[int]) -> float:
        """Mean bits per weight, given the number of weights in each layer; scales are not counted here."""
        if len(sizes) != len(self):
            raise UserError(f"{count_of(len(sizes), 'layer size')} for a bitmap of {count_of(len(self), 'width')}")
        return self.code_bytes(sizes) * 8 / sum(sizes)

    def code_bytes(self, sizes: Sequence[int]) -> float:
        """Bytes of the weight codes alone, given the number of weights in each layer."""
        return sum(bits * size for bits, size in zip(self, sizes, strict=True)) / 8

    def __str__(self) -> str:
        period = self.period
        return "/".join(map(str, period)) if len(period) <= 2 else ",".join(map(str, self))

    def __repr__(self) -> str:
        return f"Bitmap({str(self)!r})"


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` matches a run of whole components of the dotted `name`."""
    parts = name.split(".")
    runs = (".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
    return any(fnmatch.fnmatchcase(run, pattern) for run in runs)
