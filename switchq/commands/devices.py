"""`--devices N`: a command runs in N processes, one to a GPU or `--processes` to each, that split its work.

Each process runs the whole command; see `switchq.parallel` for what is split. The first one writes and prints.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.multiprocessing as processes
from torch.multiprocessing.spawn import ProcessException

from switchq import parallel
from switchq.errors import UserError
from switchq.mishaps import lost, out_of_memory

MEETINGS = 3
"""Times that processes are started at most, if they do not find each other: Gloo may close a connection of its own."""


class Unmet(Exception):
    """What kept processes apart, before any of them began."""


def on_devices(command: Callable[..., None], arguments: dict[str, Any]) -> None:
    """Run `command(**arguments)` on as many devices as the argument `devices` says, `processes` to each.

    The command does not get these two; a command without the second has one process to a device.

    Raises:
        UserError: fewer than one device or process, or more devices than there are; processes that do not find each
            other.
        Exception: the first mistake of the user's or mishap of the machine that one of the processes came upon.
    """
    arguments = dict(arguments)
    places = _places(arguments.pop("devices"), arguments.pop("processes", 1), arguments["device"])
    if len(places) == 1:
        command(**arguments)
        return
    for _ in range(MEETINGS):
        told = processes.get_context("spawn").SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            try:
                processes.spawn(_work, (command, arguments, places, folder, told), nprocs=len(places))
                return
            except ProcessException:
                if told.empty():
                    raise
                wrong = told.get()
                if not isinstance(wrong, Unmet):
                    raise wrong from None
    raise UserError(f"{len(places)} processes on this machine do not find each other: {wrong}")


def _places(devices: int, processes: int, device: str) -> list[str]:
    """The device of each process."""
    for name, count in (("devices", devices), ("processes", processes)):
        if count < 1:
            raise UserError(f"--{name} must be at least 1, not {count}")
    if devices == 1:
        return [device] * processes
    gpus, cores = torch.cuda.device_count(), max(2, os.cpu_count() or 1)
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--devices {devices} takes the first ones there are: give --device cuda or cpu, not {device}")
    kind = ("cuda" if gpus else "cpu") if device == "auto" else device
    there = gpus if kind == "cuda" else cores
    if devices > there:
        what = "GPU" if kind == "cuda" else "CPU core"
        raise UserError(f"--devices {devices} is more than there are: this machine has {there} {what}s")
    return [f"cuda:{number}" if kind == "cuda" else "cpu" for number in range(devices)] * processes


def _work(
    number: int, command: Callable[..., None], arguments: dict[str, Any], places: list[str], folder: str, told: Any
) -> None:
    """Process `number`: all but the first are silent, and what is wrong is told by the process that started them."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(places)))
    if places[number].startswith("cuda"):
        torch.cuda.set_device(places[number])
    if number:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  open as long as the process
    with ExitStack() as stack:
        try:
            stack.enter_context(parallel.join(number, len(places), folder))
        except RuntimeError as error:
            told.put(Unmet(str(error).partition("\n")[0]))
            sys.exit(1)
        try:
            command(**arguments | {"device": places[number]})
        except Exception as error:
            if not (isinstance(error, UserError) or out_of_memory(error) or lost(error)):
                raise
            told.put(error)  # before the others miss this process, and tell of that
            sys.exit(1)
