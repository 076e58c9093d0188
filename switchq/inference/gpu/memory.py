"""Loads and stores of neighbouring words, a thread's own in one instruction, written as such.

For each load of its own Triton's compiler goes through the whole kernel once more. Here a kernel has dozens, and they
took up most of the time that it took to compile.
"""

import triton
import triton.language as tl

from switchq.inference.gpu.tensorcore import INTERPRETED


@triton.jit
def load_four(at, mask, PAST: tl.constexpr):
    """The four words from `at` on, in one load; zeros where the mask says that they are past the end, if any are.

    `at`: where a thread's words begin, a multiple of 16 bytes.
    """
    if INTERPRETED:
        four = _emulated(at, mask, 4, PAST)
        even, odd = tl.split(tl.reshape(four, (four.shape[0], 2, 2)))
        word_0, word_2 = tl.split(even)
        word_1, word_3 = tl.split(odd)
        return word_0, word_1, word_2, word_3
    else:
        return _load(at, mask, 4, PAST)


@triton.jit
def load_two(at, mask, PAST: tl.constexpr):
    """The two words from `at` on, a multiple of 8 bytes, as in `load_four`."""
    if INTERPRETED:
        return tl.split(_emulated(at, mask, 2, PAST))
    else:
        return _load(at, mask, 2, PAST)


@triton.jit
def load_one(at, mask, PAST: tl.constexpr = True):
    """The word at `at`, a multiple of 4 bytes, as in `load_four`."""
    if INTERPRETED:
        if PAST:
            return tl.load(at, mask=mask, other=0)
        else:
            return tl.load(at)
    else:
        (word,) = _load(at, mask, 1, PAST)
        return word


@triton.jit
def _emulated(at, mask, COUNT: tl.constexpr, PAST: tl.constexpr):
    """(threads, COUNT) words from `at` on."""
    words_at = at[:, None] + tl.arange(0, COUNT)[None, :]
    if PAST:
        return tl.load(words_at, mask=mask[:, None], other=0)
    else:
        return tl.load(words_at)


@triton.jit
def _load(at, mask, COUNT: tl.constexpr, PAST: tl.constexpr):
    """COUNT words. They are not asked for before anything that stands before it, such as a wait for another kernel."""
    return tl.inline_asm_elementwise(
        _loads(COUNT, PAST), _constraints(COUNT), [at.to(tl.int64), mask.to(tl.int32)],
        dtype=_types(at.dtype.element_ty, COUNT), is_pure=False, pack=1,
    )  # fmt: skip


@triton.constexpr_function
def _loads(count, past):
    """The load of words $0, $1, ... from the address that follows them, where the mask after that is not 0."""
    words = _numbered(0, count)
    many = f".v{count}" if count > 1 else ""
    load = f"ld.global{many}.b32 {{{', '.join(words)}}}, [${count}];"
    if not past:
        return load
    zeros = " ".join(f"mov.b32 {word}, 0;" for word in words)
    return f"{{ .reg .pred there; setp.ne.b32 there, ${count + 1}, 0; {zeros} @there {load} }}"


@triton.constexpr_function
def _constraints(count):
    return ",".join(["=&r"] * count + ["l", "r"])


@triton.constexpr_function
def _types(kind, count):
    return (kind,) * count


@triton.constexpr_function
def _numbered(first, count):
    """Operands of an instruction from the number `first` on."""
    return [f"${first + k}" for k in range(count)]


@triton.jit
def store_four(at, four, mask):
    """Four values side by side from `at` on, a multiple of their bytes, in one store."""
    if INTERPRETED:
        for k in tl.static_range(4):
            tl.store(at + k, four[k], mask=mask)
    elif four[0].dtype.primitive_bitwidth == 16:
        _store(at, mask, (_word(four[0], four[1]), _word(four[2], four[3])), "=r,l,r,r,r")
    else:
        _store(at, mask, four, "=r,l,r,f,f,f,f")


@triton.jit
def _word(low, high):
    """Two values of 16 bits."""
    low, high = low.to(tl.int16, bitcast=True), high.to(tl.int16, bitcast=True)
    return (low.to(tl.int32) & 0xFFFF) | (high.to(tl.int32) << 16)


@triton.jit
def _store(at, mask, words, CONSTRAINTS: tl.constexpr):
    """As `_load` loads them; what it gives means nothing, but an instruction has to give something."""
    first = [at.to(tl.int64), mask.to(tl.int32), words[0], words[1]]
    given = first if len(words) == 2 else first + [words[2], words[3]]
    tl.inline_asm_elementwise(_stores(len(words)), CONSTRAINTS, given, dtype=tl.int32, is_pure=False, pack=1)


@triton.constexpr_function
def _stores(count):
    """The store of words $3, $4, ... to the address $1, where the mask $2 is not 0."""
    words = ", ".join(_numbered(3, count))
    store = f"@there st.global.v{count}.b32 [$1], {{{words}}};"
    return f"{{ .reg .pred there; setp.ne.b32 there, $2, 0; {store} mov.b32 $0, 0; }}"
