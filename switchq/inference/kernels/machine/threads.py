"""Work that is shared out among threads.

Threads are those of PyTorch's own pool (GNU's OpenMP, where PyTorch was built with it), so that the two do not get into
each other's way.
"""

from collections.abc import Callable, Mapping

import torch

from switchq.inference.kernels.machine.compiled import POOL, shares_threads
from switchq.inference.kernels.machine.text import Function

ENOUGH = 2**18
"""Multiplications that are worth waking other threads for."""

Given = Mapping[str, str]
"""Name -> what stands for its value."""


def worth_waking(multiplications: int) -> int:
    """Threads for so much work."""
    return torch.get_num_threads() if multiplications >= ENOUGH else 1


def declared() -> list[str]:
    """What a module that shares work has to declare."""
    return [f"declare {kind.replace(' (', f' @{name}(')}" for name, kind in POOL.items() if shares_threads()]


def share(task: Mapping[str, str], parts: Callable[[Function, Given], str]) -> str:
    """What one thread of the pool does, if there is one: its parts from the first to the last, by the function `some`.

    Args:
        task: name -> type of what `some` is given before the two numbers.
        parts: how many parts there are.
    """
    if not shares_threads():
        return ""
    f = Function("share", {"task": "ptr"})
    given = {name: f.load(kind, "%task", index, "i64") for index, (name, kind) in enumerate(task.items())}
    count = parts(f, given)
    me, all_of_us = (f(f"sext i32 {f(f'call i32 @omp_get_{what}()')} to i64") for what in ("thread_num", "num_threads"))
    first, last = (f(f"sdiv i64 {f.times(count, one)}, {all_of_us}") for one in (me, f.plus(me, 1)))
    f.do(f"call void @some({_listed(task, given)}, i64 {first}, i64 {last})")
    return f.text()


def run(f: Function, task: Mapping[str, str], given: Given, parts: str, threads: str) -> None:
    """Do all parts, in so many threads if there are several and they can be had.

    Args:
        f: where it is written.
        task: as `share` has it, which is in the same module.
        given: the values.
        parts: how many there are.
        threads: an i64.
    """
    alone = f"call void @some({_listed(task, given)}, i64 0, i64 {parts})"
    if not shares_threads():
        f.do(alone)
        return
    with f.when(f(f"icmp sgt i64 {threads}, 1")):
        told = f.place("i64", len(task))
        for index, (name, kind) in enumerate(task.items()):
            f.store(kind, given[name], f.at(told, "i64", index))
        count = f(f"trunc i64 {threads} to i32")
        f.do(f"call void @GOMP_parallel(ptr @share, ptr {told}, i32 {count}, i32 0)")
    with f.when(f(f"icmp sle i64 {threads}, 1")):
        f.do(alone)


def _listed(task: Mapping[str, str], given: Given) -> str:
    return ", ".join(f"{kind} {given[name]}" for name, kind in task.items())
