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
