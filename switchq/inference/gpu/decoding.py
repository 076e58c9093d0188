"""Reading b bit-planes in Triton: words of codes, and a whole weight decoded.

Words of planes (see `switchq.inference.gpu.tiles`) give, by picking bits alone, words whose fields of F = 2, 4 or 8
bits hold the codes of bits r, r + F, r + 2 F, ... A code u = code + 2^(b-1) becomes a float without a conversion: laid
under the exponent of 2^23 it is 2^23 + u.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from switchq.inference.gpu.memory import load_two, store_four
from switchq.inference.gpu.tensorcore import INTERPRETED
from switchq.inference.gpu.tiles import COLUMNS, PAIR, TiledWeight


@triton.jit
def turned(word, BY: tl.constexpr):
    """The word turned right by BY places."""
    by: tl.constexpr = BY % 32
    if by == 0:
        return word
    elif INTERPRETED:
        return (word >> by) | (word << (32 - by))
    else:  # for all that are picked of it; LLVM would shift anew for each
        return tl.inline_asm_elementwise(_turn(by), "=r,r", [word], dtype=tl.uint32, is_pure=True, pack=1)


@triton.constexpr_function
def _turn(by):
    """The instruction that turns $1 right."""
    return f"shf.r.wrap.b32 $0, $1, $1, {by};"


@triton.jit
def _pick(a, b, ONES: tl.constexpr, R: tl.constexpr, F: tl.constexpr):
    """Bits of a where ONES, turned so that its first run ends at R, has one; elsewhere of b."""
    by: tl.constexpr = F - 1 - R % F
    mask: tl.constexpr = ((ONES >> by) | (ONES << (32 - by))) & 0xFFFFFFFF
    if INTERPRETED:
        return (a & mask) | (b & (mask ^ 0xFFFFFFFF))
    else:  # LLVM makes two instructions of it
        return tl.inline_asm_elementwise(_merge(mask), "=r,r,r", [a, b], dtype=tl.uint32, is_pure=True, pack=1)


@triton.constexpr_function
def _merge(mask):
    """The instruction that takes bits of $1 where the mask has ones, elsewhere of $2."""
    return f"lop3.b32 $0, $1, $2, {mask:#x}, 0xE4;"


@triton.jit
def code_word(planes, R: tl.constexpr, F: tl.constexpr):
    """The fields of bits R, R + F, ...: the sign bit of code n at bit n, the next one below it, and so on."""
    last: tl.constexpr = len(planes) - 1
    word = _pick(planes[0], planes[1], 0xAAAAAAAA, R, 2)
    if F > 2:
        more = _pick(planes[2], planes[min(3, last)], 0xAAAAAAAA, R, 2)
        word = _pick(word, more, 0xCCCCCCCC, R, 4)
    if F > 4:
        low = _pick(planes[4], planes[min(5, last)], 0xAAAAAAAA, R, 2)
        more = _pick(planes[min(6, last)], planes[min(7, last)], 0xAAAAAAAA, R, 2)
        low = _pick(low, more, 0xCCCCCCCC, R, 4)
        word = _pick(word, low, 0xF0F0F0F0, R, 8)
    return word


@triton.jit
def code_words(planes, F: tl.constexpr):
    """All of them: field p of word r belongs to bit r + F p."""
    words = ()
    for r in tl.static_range(F):
        words = words + (code_word(planes, r, F),)
    return words


@triton.jit
def load_words(planes, at, mask, DOWN: tl.constexpr, HEIGHT: tl.constexpr, PAST: tl.constexpr):
    """Of each of a thread's rows, two in each of DOWN tiles that lie HEIGHT words apart, a word of every plane."""
    rows = ()
    for m in tl.static_range(DOWN):
        top, low = (), ()
        for k in tl.static_range(len(planes)):
            two = load_two((planes[k] + at + m * HEIGHT).to(tl.pointer_type(tl.uint32)), mask, PAST)
            top, low = top + (two[0],), low + (two[1],)
        rows = rows + (top, low)
    return rows


@triton.jit
def _levels(word):
    """The scale and the offset of a word, float32."""
    scale = word.to(tl.int16).to(tl.float16, bitcast=True)
    offset = (word >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    return scale.to(tl.float32), offset.to(tl.float32)


@triton.jit
def load_levels(level_ptr, tile, group, lane, GROUPS: tl.constexpr, DOWN: tl.constexpr):
    """Scale and offset of each of a thread's rows, two in each of DOWN tiles from the number `tile` of rows on."""
    scales, offsets = (), ()
    for m in tl.static_range(DOWN):
        at = level_ptr + (((tile + m) * GROUPS + group) * 8 + lane // 4) * 2
        words = load_two(at, lane < 32, False)  # all lanes: rows that fill up have levels too
        for e in tl.static_range(2):
            scale, offset = _levels(words[e])
            scales, offsets = scales + (scale,), offsets + (offset,)
    return scales, offsets


@triton.jit
def _code(words, N: tl.constexpr, BITS: tl.constexpr, F: tl.constexpr):
    """The code of bit N, float32."""
    u = turned(words[N % F], N - BITS + 1) & ((1 << BITS) - 1)
    return (u | 0x4B000000).to(tl.float32, bitcast=True) - float((1 << 23) + (1 << (BITS - 1)))


@triton.jit
def _weight(
    planes, level_ptr, weight_ptr, OUT,
    IN: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, F: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """weight (O, I) = code x scale + offset."""
    BITS: tl.constexpr = len(planes)
    TILES: tl.constexpr = (IN + 127) // 128
    GROUPS: tl.constexpr = IN // GROUP
    thread = tl.arange(0, 32 * WARPS)
    tile, lane = tl.program_id(1) * WARPS + thread // 32, thread % 32
    at = (2 * tl.program_id(0) * TILES + tile) * 64 + lane * 2
    words = load_words(planes, at, tile < TILES, 2, TILES * 64, TILES % WARPS != 0)
    fields = ()
    for e in tl.static_range(4):
        fields = fields + (code_words(words[e], F),)
    for first in tl.static_range(0, 128, CHUNK):
        group = tl.minimum((tile * 128 + first) // GROUP, GROUPS - 1)
        scales, offsets = load_levels(level_ptr, 2 * tl.program_id(0), group, lane, GROUPS, 2)
        for e in tl.static_range(4):
            row = tl.program_id(0) * 32 + lane // 4 + 8 * e
            for i in tl.static_range(first // 16, (first + CHUNK) // 16):
                start = tile * 128 + 32 * (i // 2)
                four = ()
                for k in tl.static_range(4):
                    code = _code(fields[e], 2 * i + k // 2 + k % 2 * 16, BITS, F)
                    four = four + ((code * scales[e] + offsets[e]).to(weight_ptr.dtype.element_ty),)
                place = row.to(tl.int64) * IN + start + lane % 4 * 8 + i % 2 * 4
                store_four(weight_ptr + place, four, (row < OUT) & (start < IN))


def weight(tiled: TiledWeight, dtype: torch.dtype) -> Tensor:
    """The weight (O, I) in `dtype`."""
    outputs, inputs = tiled.shape
    weight_OI = torch.empty(outputs, inputs, dtype=dtype, device=tiled.levels.device)
    tiles = triton.cdiv(inputs, COLUMNS)
    warps = min(4, triton.next_power_of_2(tiles))
    _weight[(triton.cdiv(outputs, PAIR), triton.cdiv(tiles, warps))](
        tiled.planes, tiled.levels, weight_OI, outputs,
        IN=inputs, GROUP=tiled.group_size, CHUNK=tiled.chunk, F=field(len(tiled.planes)),
        WARPS=warps, num_warps=warps,
    )  # fmt: skip
    return weight_OI


def field(bits: int) -> int:
    """F: bits that a code takes up in a word."""
    return 2 if bits == 2 else 4 if bits <= 4 else 8
