"""Sums over the warps of a program, and over the threads of a row, through shared memory, in one exchange.

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
def of_rows(values, thread, USED: tl.constexpr, WARPS: tl.constexpr, DOWN: tl.constexpr):
    """Sums over the first USED warps of what the four threads of a row hold.

    Args:
        values: 2 DOWN tensors with an element for each thread. The k-th of thread 32 w + 4 g + t counts for row
            g + 8 k.
        thread: their numbers.

    Returns:
        in thread T the sum of row T. Threads that have no row end here.
    """
    if INTERPRETED:
        return _emulated_rows(values, thread, USED, WARPS, DOWN)
    else:
        return tl.inline_asm_elementwise(
            _rows(USED, DOWN), _row_constraints(DOWN), (thread,) + values,
            dtype=tl.float32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.constexpr_function
def _row_constraints(down):
    return ",".join(["=f", "r"] + ["f"] * (2 * down))


@triton.constexpr_function
def _rows(warps, down):
    """A row's threads give each other what is not theirs to add up; a warp's rows lie side by side."""
    rows = 16 * down
    lines = [
        f".shared .align 16 .b8 rows[{rows * warps * 4}];",
        ".reg .u32 at, warp, lane, base; .reg .pred first, odd, upper;",
        f".reg .f32 one<{warps}>, kept<3>, given;",
        "and.b32 lane, $1, 31;",
        "shr.u32 warp, $1, 5;",
        "and.b32 at, lane, 1;",
        "setp.ne.u32 odd, at, 0;",
        "and.b32 at, lane, 2;",
        "setp.ne.u32 upper, at, 0;",
        "mov.u32 base, rows;",
        f"mad.lo.u32 at, warp, {4 * rows}, base;",
        "and.b32 warp, lane, 28;",  # 4 g bytes
        "add.u32 at, at, warp;",
        "and.b32 warp, lane, 3;",
        "mad.lo.u32 at, warp, 32, at;",  # row g + 8 t
    ]

    def shared(kept, odd, even, upper, distance):
        return [
            f"selp.f32 given, {even}, {odd}, {upper};",
            f"selp.f32 {kept}, {odd}, {even}, {upper};",
            *added(kept, "given", distance),
        ]

    def added(kept, given, distance):
        return [
            f"shfl.sync.bfly.b32 given, {given}, {distance}, 0x1f, 0xffffffff;",
            f"add.f32 {kept}, {kept}, given;",
        ]

    for k in range(0, 2 * down - 2, 4):
        lines += shared("kept0", f"${3 + k}", f"${2 + k}", "odd", 1)
        lines += shared("kept1", f"${5 + k}", f"${4 + k}", "odd", 1)
        lines += shared("kept2", "kept1", "kept0", "upper", 2)
        lines.append(f"st.shared.f32 [at + {32 * k}], kept2;")
    if down % 2:
        k = 2 * down - 2
        lines += [*shared("kept0", f"${3 + k}", f"${2 + k}", "odd", 1), *added("kept0", "kept0", 2)]
        lines.append(f"@!upper st.shared.f32 [at + {32 * k}], kept0;")
    lines += ["bar.sync 0;", f"setp.ge.u32 first, $1, {rows};", "@first exit;", "mad.lo.u32 at, $1, 4, base;"]
    lines += [f"ld.shared.f32 one{warp}, [at + {4 * rows * warp}];" for warp in range(warps)]
    left = warps
    while left > 1:  # pairs, so that fewer wait for each other
        half = left // 2
        lines += [f"add.f32 one{k}, one{k}, one{left - 1 - k};" for k in range(half)]
        left -= half
    return "{" + "\n".join([*lines, "mov.f32 $0, one0;"]) + "}"


@triton.jit
def _emulated_rows(values, thread, USED: tl.constexpr, WARPS: tl.constexpr, DOWN: tl.constexpr):
    """The same without shared memory."""
    found = tl.zeros_like(values[0])
    for k in tl.static_range(2 * DOWN):
        of_g = tl.reshape(tl.where(thread < 32 * USED, values[k], 0.0), (WARPS, 8, 4))
        of_g = tl.sum(tl.sum(of_g, 2), 0)
        spread = tl.reshape(tl.broadcast_to(of_g[None, :], (4 * WARPS, 8)), (32 * WARPS,))
        found = tl.where(thread // 8 == k, spread, found)
    return found
