"""`switchq bench`: speed and memory of an artifact on this machine, beside the plain model."""

from dataclasses import asdict

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from switchq.bitmap import Bitmap
from switchq.commands.quiet import quiet
from switchq.errors import UserError
from switchq.evaluation import check_writable, write_json
from switchq.evaluation.provenance import versions
from switchq.inference import Artifact
from switchq.inference.bench import FLOAT, SLOWER, Speed, bench
from switchq.inference.source import Prefer
from switchq.inference.tuning import machine
from switchq.models import context_window, pick_device


def bench_command(
    artifact: str,
    bitmap: list[str] | None,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    batch: int,
    prefer: Prefer,
    device: str,
    threads: int | None,
    output: str | None,
) -> None:
    """See `switchq.verbs.bench`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts.
    """
    quiet()
    counts = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats, "batch": batch}
    for name, value in {**counts, "threads": threads}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    if output is not None:
        check_writable(output)
    place = pick_device(device)
    given = {**counts, "threads": threads, "device": str(place), "prefer": prefer}
    here = torch.cuda.get_device_name(place) if place.type == "cuda" else machine()
    plain = FLOAT[place.type == "cuda"]
    manifest = Artifact(artifact).manifest
    rows = bitmap or [str(bits) for bits in manifest.widths]
    for written in rows:
        Bitmap.parse(written, tuple(manifest.layers)).check_held(manifest.widths)
    window = context_window(artifact)
    if prompt_tokens + 1 + new_tokens > window:
        raise UserError(
            f"--prompt_tokens {prompt_tokens}, the first token and --new_tokens {new_tokens} do not fit the model's "
            f"window of {window}"
        )
    speeds = [bench(artifact, row, **given) for row in (plain, *rows)]  # type: ignore[arg-type]
    console = Console()
    console.print(
        f"{artifact}, read for {prefer}, {batch} x {prompt_tokens} prompt tokens, {here}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    console.print(_table(speeds))
    if any(speed.tokens_per_s is None for speed in speeds):
        console.print("Too short to time: raise --new_tokens")
    slower: dict[int, float] = {}
    for bits, factor in (pair for speed in speeds for pair in speed.slower.items()):
        slower[bits] = max(factor, slower.get(bits, 0.0))
    for bits, factor in slower.items():
        console.print(SLOWER.format(bits=bits, factor=factor))
    if output is not None:
        write_json(output, {"machine": here, "versions": versions(), "settings": given, "rows": [*map(asdict, speeds)]})


def _table(speeds: list[Speed]) -> Table:
    table = Table(
        "bitmap", "tokens/s", f"of {speeds[0].bitmap}", "first token ms", "memory MB", "read MB", box=box.SIMPLE
    )
    for column in table.columns[1:]:
        column.justify = "right"
    plain = speeds[0].tokens_per_s
    for speed in speeds:
        table.add_row(
            speed.bitmap,
            "" if speed.tokens_per_s is None else f"{speed.tokens_per_s:,.1f}",
            "" if not (speed.tokens_per_s and plain) else f"{speed.tokens_per_s / plain:.2f}",
            f"{speed.first_token_ms:.0f}",
            f"{speed.memory_mb:,.0f}",
            f"{speed.read_mb:,.1f}",
        )
    return table
