"""Products that are added in pairs as they are made: one instruction on x86, written out for other processors.

of_16_bits   z_k = a_2k b_2k + a_2k+1 b_2k+1        a, b of 16 bits, z of 32        vpmaddwd
of_8_bits    the same                               a unsigned and b signed, of 8 bits, z of 16, which has to hold it
                                                                                    vpmaddubsw
"""

from functools import cache

import llvmlite.binding as llvm

from switchq.inference.kernels.machine.text import Function

INSTRUCTIONS = (
    "declare <8 x i32> @llvm.x86.avx2.pmadd.wd(<16 x i16>, <16 x i16>)",
    "declare <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8>, <32 x i8>)",
)
"""Of vectors of 32 bytes."""


def of_16_bits(f: Function, one: str, other: str) -> str:
    """Of vectors of 16 numbers."""
    if has_instructions():
        return f(f"call <8 x i32> @llvm.x86.avx2.pmadd.wd(<16 x i16> {one}, <16 x i16> {other})")
    return _written_out(f, 16, f(f"sext <16 x i16> {one} to <16 x i32>"), f(f"sext <16 x i16> {other} to <16 x i32>"))


def of_8_bits(f: Function, one: str, other: str) -> str:
    """Of vectors of 32 numbers, the first of them unsigned."""
    if has_instructions():
        return f(f"call <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8> {one}, <32 x i8> {other})")
    return _written_out(f, 32, f(f"zext <32 x i8> {one} to <32 x i16>"), f(f"sext <32 x i8> {other} to <32 x i16>"))


def declared() -> tuple[str, ...]:
    """What a module has to declare."""
    return INSTRUCTIONS if has_instructions() else ()


@cache
def has_instructions() -> bool:
    """Whether this processor has them."""
    return bool(llvm.get_host_cpu_features().get("avx2"))


def _written_out(f: Function, count: int, one: str, other: str) -> str:
    """Of vectors of `count` numbers that are as wide as the result already."""
    kind = f"i{512 // count}"
    products = f(f"mul <{count} x {kind}> {one}, {other}")
    even, odd = (f.pick(kind, count, products, range(start, count, 2)) for start in (0, 1))
    return f(f"add <{count // 2} x {kind}> {even}, {odd}")
