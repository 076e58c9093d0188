"""Sums over the warps of a program, through shared memory, in one exchange.

Triton's own reductions write what the warps have of one lane next to each other, so that the lanes of a warp meet in
the same few banks; here a warp's lanes lie next to each other.
"""

import triton
import triton.language as tl

from switchq.inference.gpu.tensorcore import INTERPRETED

VALUES = tl.constexpr(8)
"""Values of a thread."""


@triton.jit
def over_warps(values, thread, WARPS: tl.constexpr):
    """Of eight values a thread, tensors with an element for each, the sums over the threads of equal lane.

    Thread 32 w + l has in the i-th result that of value w + i WARPS, as far as there is one, and lane l.
    """
    if WARPS == 1:
        return values
    elif INTERPRETED:
        return _emulated(values, thread, WARPS)
    else:
        return tl.inline_asm_elementwise(
            _exchange(WARPS), _constraints(WARPS), [thread, values[0], values[1], values[2], values[3], values[4],
            values[5], values[6], values[7]], dtype=_types(WARPS), is_pure=False, pack=1,
        )  # fmt: skip


@triton.constexpr_function
def _count(warps):
    """How many results a thread gets."""
    return max(1, VALUES.value // warps)


@triton.constexpr_function
def _types(warps):
    return (tl.float32,) * _count(warps)


@triton.constexpr_function
def _constraints(warps):
    return ",".join(["=f"] * _count(warps) + ["r"] + ["f"] * VALUES.value)


@triton.constexpr_function
def _exchange(warps):
    """Value k of thread t at place k T + t; then thread 32 w + l adds up the places k T + 32 j + l over the warps j."""
    threads, count = 32 * warps, _count(warps)
    lines = [
        f".shared .align 16 .b8 sums[{VALUES.value * threads * 4}];",
        ".reg .u32 at, warp; .reg .f32 one;",
        "mov.u32 at, sums;",
        f"mad.lo.u32 at, ${count}, 4, at;",
    ]
    lines += [f"st.shared.f32 [at + {4 * threads * k}], ${count + 1 + k};" for k in range(VALUES.value)]
    lines += [
        "bar.sync 0;",
        f"shr.u32 warp, ${count}, 5;",
        f"min.u32 warp, warp, {VALUES.value - 1};",
        f"and.b32 at, ${count}, 31;",
        f"mad.lo.u32 at, warp, {threads}, at;",
        "shl.b32 at, at, 2;",
        "mov.u32 warp, sums;",
        "add.u32 at, at, warp;",
    ]
    for i in range(count):
        place = 4 * threads * warps * i
        lines.append(f"ld.shared.f32 ${i}, [at + {place}];")
        for j in range(1, warps):
            lines += [f"ld.shared.f32 one, [at + {place + 128 * j}];", f"add.f32 ${i}, ${i}, one;"]
    return "{" + "\n".join(lines) + "}"


@triton.jit
def _emulated(values, thread, WARPS: tl.constexpr):
    """The same without shared memory."""
    found = ()
    for i in tl.static_range(_count(WARPS)):
        one = tl.zeros_like(values[0])
        for k in tl.static_range(VALUES):
            total = tl.sum(tl.reshape(values[k], (WARPS, 32)), 0)
            all_lanes = tl.reshape(tl.broadcast_to(total[None, :], (WARPS, 32)), (32 * WARPS,))
            one = tl.where(thread // 32 + i * WARPS == k, all_lanes, one)
        found = found + (one,)
    return found


@triton.jit
def leave(thread, FROM: tl.constexpr):
    """Threads from the number FROM on, whole warps, end here; no barrier waits for them."""
    if not INTERPRETED:
        tl.inline_asm_elementwise(_leave(FROM), "=r,r", [thread], dtype=tl.int32, is_pure=False, pack=1)


@triton.constexpr_function
def _leave(first):
    return f"{{.reg .pred over; setp.ge.u32 over, $1, {first}; @over exit; mov.b32 $0, $1;}}"


@triton.jit
def over_lanes(value, WARPS: tl.constexpr):
    """In each thread the sum over the threads of its warp whose numbers are the same modulo 4."""
    if INTERPRETED:
        total = tl.sum(tl.reshape(value, (WARPS, 8, 4)), 1)
        return tl.reshape(tl.broadcast_to(total[:, None, :], (WARPS, 8, 4)), (32 * WARPS,))
    else:
        return tl.inline_asm_elementwise(_over_lanes(), "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1)


@triton.constexpr_function
def _over_lanes():
    lines = [".reg .f32 one;", "mov.f32 $0, $1;"]
    for distance in (4, 8, 16):
        lines += [f"shfl.sync.bfly.b32 one, $0, {distance}, 31, 0xffffffff;", "add.f32 $0, $0, one;"]
    return "{" + "\n".join(lines) + "}"


@triton.jit
def of_rows(values, total, thread, USED: tl.constexpr, WARPS: tl.constexpr, DOWN: tl.constexpr, SETS: tl.constexpr):
    """Sums over the first USED warps of what the first column of multiplications holds.

    Args:
        values: SETS times 2 DOWN tensors with an element for each thread; that of thread 32 w + 4 g counts. The k-th of
            a set is row g + 8 k.
        total: a value of each warp.
        thread: their numbers.

    Returns:
        in thread T the sum of row T of the first set, that of `total`, then those of the other sets. Threads that have
        no row end here.
    """
    if INTERPRETED:
        return _emulated_rows(values, total, thread, USED, WARPS, DOWN, SETS)
    else:
        return tl.inline_asm_elementwise(
            _rows(USED, DOWN, SETS), _row_constraints(DOWN, SETS), (thread, total) + values,
            dtype=_row_types(SETS), is_pure=False, pack=1,
        )  # fmt: skip


@triton.constexpr_function
def _row_types(sets):
    return (tl.float32,) * (sets + 1)


@triton.constexpr_function
def _row_constraints(down, sets):
    return ",".join(["=&f"] * (sets + 1) + ["r"] + ["f"] * (2 * down * sets + 1))


@triton.constexpr_function
def _rows(warps, down, sets):
    """A warp's rows lie side by side, set by set, and the totals behind them all."""
    rows, outputs = 16 * down, sets + 1
    thread, total, values = outputs, outputs + 1, outputs + 2
    lines = [
        f".shared .align 16 .b8 rows[{(sets * rows + 1) * warps * 4}];",
        ".reg .u32 at, warp, lane, base; .reg .f32 one; .reg .pred first, leads;",
        f"and.b32 lane, ${thread}, 31;",
        f"shr.u32 warp, ${thread}, 5;",
        "and.b32 at, lane, 3;",
        "setp.eq.u32 first, at, 0;",
        "setp.eq.u32 leads, lane, 0;",
        "mov.u32 base, rows;",
        f"mad.lo.u32 at, warp, {4 * rows}, base;",
        "add.u32 at, at, lane;",  # 4 g bytes
    ]
    for number in range(sets):
        for k in range(2 * down):
            place = 4 * (number * warps * rows + 8 * k)
            lines.append(f"@first st.shared.f32 [at + {place}], ${values + number * 2 * down + k};")
    lines += [
        "mad.lo.u32 at, warp, 4, base;",
        f"@leads st.shared.f32 [at + {4 * sets * warps * rows}], ${total};",
        "bar.sync 0;",
        f"setp.ge.u32 first, ${thread}, {rows};",
        "@first exit;",
        f"mad.lo.u32 at, ${thread}, 4, base;",
    ]
    sums = [("at", 0, 4 * rows), ("base", 4 * sets * warps * rows, 4), ("at", 4 * warps * rows, 4 * rows)]
    for number in range(outputs):  # Triton reads this function, too, and knows no nested targets
        start, place, step = sums[number]
        lines.append(f"ld.shared.f32 ${number}, [{start} + {place}];")
        for warp in range(1, warps):
            lines += [
                f"ld.shared.f32 one, [{start} + {place + step * warp}];",
                f"add.f32 ${number}, ${number}, one;",
            ]
    return "{" + "\n".join(lines) + "}"


@triton.jit
def _emulated_rows(
    values, total, thread, USED: tl.constexpr, WARPS: tl.constexpr, DOWN: tl.constexpr, SETS: tl.constexpr
):  # fmt: skip
    """The same without shared memory."""
    used = thread < 32 * USED
    first = used & (thread % 4 == 0)
    found = ()
    for number in tl.static_range(SETS):
        one = tl.zeros_like(values[0])
        for k in tl.static_range(2 * DOWN):
            of_g = tl.reshape(tl.where(first, values[number * 2 * DOWN + k], 0.0), (WARPS, 8, 4))
            of_g = tl.sum(tl.sum(of_g, 2), 0)
            spread = tl.reshape(tl.broadcast_to(of_g[None, :], (4 * WARPS, 8)), (32 * WARPS,))
            one = tl.where(thread // 8 == k, spread, one)
        found = found + (one,)
    all_warps = tl.zeros_like(total) + tl.sum(tl.where(used & (thread % 32 == 0), total, 0.0), 0)
    return found[:1] + (all_warps,) + found[1:]
