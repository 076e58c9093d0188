"""Work that is split over processes: all go through the same code, each does its share, and all get the whole.

What is split is a list whose items do not depend on each other: batches, windows, runs. An item is computed in the same
way by whichever process has it, and results are put together in the order of the list, so figures do not depend on the
number of processes. In a single process every function here is the plain thing.

Processes are those of `torch.distributed`: the Trainer's under DDP, or those that `--devices` starts.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

Item = TypeVar("Item")
Result = TypeVar("Result")

_state: dict[str, Any] = {"alone": False, "store": None, "turns": 0}


def size() -> int:
    """Processes that work together here."""
    together = not _state["alone"] and dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if together else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, nothing is split: for work that this process has to itself, or that all must do in step."""
    before = _state["alone"]
    _state["alone"] = True
    try:
        yield
    finally:
        _state["alone"] = before


def split_map(
    call: Callable[[Item], Result],
    items: Sequence[Item],
    advance: Callable[[int], object] | None = None,
    worth: Callable[[Item], int] = lambda item: 1,
) -> list[Result]:
    """`[call(item) for item in items]`, with every process calling for each `size()`-th item.

    Args:
        call: gives something that can be sent: plain values, or tensors on the CPU.
        items: the same in every process.
        advance: called with what is done, over all processes, as far as this one can tell.
        worth: what an item counts for in that.
    """
    count, own = size(), []
    for start in range(0, len(items), count):
        together = items[start : start + count]
        if rank() < len(together):
            own.append(call(together[rank()]))
        if advance is not None:
            advance(sum(map(worth, together)))
    if count == 1:
        return own
    found = gather(own)
    return [found[number % count][number // count] for number in range(len(items))]


def split_each(call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """As `split_map`, but what is done comes at once: after each item of their own, all processes send theirs."""
    count = size()
    for start in range(0, len(items), count):
        together = items[start : start + count]
        own = call(together[rank()]) if rank() < len(together) else None
        yield from gather(own)[: len(together)]  # type: ignore[misc]


def split_sum(call: Callable[[Item], tuple[Any, ...]], items: Sequence[Item]) -> tuple[Any, ...]:
    """The sums, item after item, of what `call` gives for each: numbers or tensors, several at once."""
    return tuple(sum(values[1:], start=values[0]) for values in zip(*split_map(call, items), strict=True))


def gather(value: Result) -> list[Result]:
    """The value of every process, in the order of their numbers."""
    found: list[Any] = [value] * size()
    if size() > 1:
        dist.all_gather_object(found, value)
    return found


def from_first(value: Result) -> Result:
    """The value of the first process."""
    found = [value]
    if size() > 1:
        dist.broadcast_object_list(found, 0)
    return found[0]


def in_turn(call: Callable[[], Result]) -> Result:
    """`call()`, by one process after the other, the first one first."""
    for number in range(size()):
        if number == rank():
            result = call()
        gather(None)
    return result


def take(items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
    """Items that no other process has taken, with their numbers: whichever is free takes the next.

    For items that take long and unevenly; only among processes that `join` has brought together.
    """
    if size() == 1:
        yield from enumerate(items)
        return
    _state["turns"] += 1
    while (number := _state["store"].add(f"turn {_state['turns']}", 1) - 1) < len(items):
        yield number, items[number]


@contextmanager
def join(number: int, count: int, folder: str) -> Iterator[None]:
    """Inside, this is process `number` of `count` on one machine that find each other through an empty folder.

    What they send each other lies in memory, not on a GPU, so that no two need the same kind of device. One may take
    days longer than another.
    """
    _state["store"] = dist.FileStore(os.path.join(folder, "store"), count)
    dist.init_process_group("gloo", store=_state["store"], rank=number, world_size=count, timeout=timedelta(days=30))
    try:
        yield
    finally:
        dist.destroy_process_group()
        _state["store"] = None
