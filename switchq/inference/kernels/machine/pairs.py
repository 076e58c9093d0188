"""Products that are added in pairs as they are made: one instruction on x86, written out for other processors.

of_16_bits   z_k = a_2k b_2k + a_2k+1 b_2k+1        a, b of 16 bits, z of 32        vpmaddwd
of_8_bits    the same                               a unsigned and b signed, of 8 bits, z of 16, which has to hold it
                                                                                    vpmaddubsw
"""

from functools import cache

import llvmlite.binding as llvm

from switchq.inference.kernels.machine.text import Function

INSTRUCTIONS = {
    ("i16", 16): "llvm.x86.avx2.pmadd.wd",
    ("i16", 8): "llvm.x86.sse2.pmadd.wd",
    ("i8", 32): "llvm.x86.avx2.pmadd.ub.sw",
    ("i8", 16): "llvm.x86.ssse3.pmadd.ub.sw.128",
}
"""Of vectors of so many numbers of a type."""


def of_16_bits(f: Function, one: str, other: str, count: int) -> str:
    """Of vectors of `count` numbers."""
    return _pairs(f, "i16", "i32", "sext", one, other, count)


def of_8_bits(f: Function, one: str, other: str, count: int) -> str:
    """Of vectors of `count` numbers, the first of them unsigned."""
    return _pairs(f, "i8", "i16", "zext", one, other, count)


def text() -> list[str]:
    """What a module has to declare."""
    return [
        f"declare <{count // 2} x {WIDER[kind]}> @{name}(<{count} x {kind}>, <{count} x {kind}>)"
        for (kind, count), name in INSTRUCTIONS.items()
        if has_instructions()
    ]


WIDER = {"i8": "i16", "i16": "i32"}


@cache
def has_instructions() -> bool:
    """Whether this processor has them."""
    return bool(llvm.get_host_cpu_features().get("avx2"))


def _pairs(f: Function, kind: str, wider: str, first: str, one: str, other: str, count: int) -> str:
    given, made = f"<{count} x {kind}>", f"<{count} x {wider}>"
    name = INSTRUCTIONS.get((kind, count)) if has_instructions() else None
    if name:
        return f(f"call <{count // 2} x {wider}> @{name}({given} {one}, {given} {other})")
    wide = [f(f"{way} {given} {value} to {made}") for way, value in ((first, one), ("sext", other))]
    products = f(f"mul {made} {wide[0]}, {wide[1]}")
    even, odd = (f.pick(wider, count, products, range(start, count, 2)) for start in (0, 1))
    return f(f"add <{count // 2} x {wider}> {even}, {odd}")
