"""Timing of named callables side by side, in one process: A B C, C B A, A B C, ...

A machine that is shared, or that changes its clock, changes for all of them alike, so what is reported is the ratio to
the reference within each round: its median over the rounds, and its smallest and largest. Milliseconds are only
context. On a busy CPU, `--threads 1 --clock cpu` counts the processor time of this process, not the waiting for others.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One thing measured: the median seconds of a call, and its ratio to the reference of the same round."""

    name: str
    seconds: float
    ratio: float
    smallest: float
    largest: float
    rounds: int
    target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target was met, in the median."""
        if self.target is None:
            return ""
        return f"<= {self.target:.2f} {'met' if self.ratio <= self.target else 'MISSED'}"


def side_by_side(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    shares: Mapping[str, float] = {},
    targets: Mapping[str, float] = {},
    warmup: int = 2,
    clock: str = "wall",
) -> list[Row]:
    """Time `calls` in turn, `rounds` times; the first one is the reference of the ratios.

    Args:
        calls: what to time, by name.
        rounds: times that each is called after the warm-up; every second round goes through them backwards.
        shares: name -> what a call's time is divided by (the number of passes that it makes, say).
        targets: name -> the largest ratio wanted.
        warmup: untimed calls of each.
        clock: `wall`, or `cpu` for processor time.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in reversed(calls.items()) if number % 2 else calls.items():
            seconds[name].append(elapsed(call, clock) / shares.get(name, 1))
    reference = next(iter(seconds.values()))
    rows = []
    for name, own in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(own, reference)]
        rows.append(Row(name, median(own), median(ratios), min(ratios), max(ratios), rounds, targets.get(name)))
    return rows


def elapsed(call: Callable[[], object], clock: str = "wall") -> float:
    """Seconds of a call, with all the device's work that belongs to it and none that does not."""
    now = process_time if clock == "cpu" else perf_counter
    _wait()
    begin = now()
    call()
    _wait()
    return now() - begin


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    options.add_argument("--device", choices=("cpu", "cuda"), default=automatic, help="where to run")
    options.add_argument("--rounds", type=int, default=None, help="timed calls of each, 7 on a CPU and 8 on a GPU")
    options.add_argument("--threads", type=int, default=None, help="of torch on the CPU")
    options.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="wall time, or processor time (CPU only)"
    )
    options.add_argument("--output", type=Path, default=None, help="write the figures here, as JSON")
    return options


def prepare(arguments: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the device, and seed."""
    if arguments.rounds is None:
        arguments.rounds = 8 if arguments.device == "cuda" else 7
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)


def report(title: str, rows: list[Row], arguments: argparse.Namespace, **figures: Any) -> None:
    """Print a table, and write JSON if asked to."""
    table = Table("", "ms", "ratio", "min - max", "target", title=title, box=box.SIMPLE, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        spread = f"{row.smallest:.2f} - {row.largest:.2f}"
        table.add_row(row.name, f"{row.seconds * 1e3:.4g}", f"{row.ratio:.3f}", spread, row.verdict)
    Console().print(table)
    for name, value in figures.items():
        Console().print(f"{name.replace('_', ' ')}: {value}", highlight=False)
    if arguments.output:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        content = {
            "title": title,
            "rows": [asdict(row) for row in rows],
            **figures,
            "settings": settings,
            "machine": machine(arguments.device),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(content, indent=2, default=str) + "\n")


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
