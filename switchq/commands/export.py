"""`switchq export`: a trained checkpoint, or a plain model, becomes an artifact or a plain model at one bitmap."""

from pathlib import Path
from typing import cast

from rich import box
from rich.console import Console
from rich.table import Table

from switchq.bitmap import check_rounded
from switchq.commands.fixed_tables import show_fixed
from switchq.commands.quiet import quiet
from switchq.commands.subject import Subject, load_subject
from switchq.data.text import text_windows
from switchq.errors import UserError
from switchq.evaluation.memory import MB
from switchq.inference import Exported, export_artifact, export_fixed
from switchq.inference.export import EmbeddingBits
from switchq.inference.formats.write import Adapters, FloatBits
from switchq.models import context_window
from switchq.quant import Grid, Nested
from switchq.words import command_line

GRIDS = {"artifact": "nested", "compressed-tensors": "symmetric"}
"""What a plain model is rounded to, where that is not asymmetric."""

WINDOW, WINDOWS = 512, 8
"""Tokens of a window of `--text`, and how many are read."""


def export_command(
    ckpt: str | None,
    model: str | None,
    output: str,
    format: str,
    bits: list[int] | None,
    embeddings: int | None,
    bitmap: str | None,
    adapters: str,
    text: str | None,
    grid: str | None,
    group_size: int | None,
    scale: str | None,
    base: str | None,
    overwrite: bool,
) -> None:
    """See `switchq.verbs.export`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    packs_all = format == "artifact"
    if Path(output).exists() and not overwrite:
        raise UserError(f"{output} is there already: give another --output, or --overwrite")
    if packs_all and bitmap is not None:
        raise UserError(f"an artifact holds all bitmaps: leave out --bitmap {bitmap}, or give another --format for one")
    if not packs_all and bitmap is None:
        raise UserError(f"--format {format} holds one bitmap: give --bitmap")
    check_rounded(bits or (), "not held by an artifact")
    if packs_all and grid not in (None, "nested"):
        raise UserError(f"only nested codes hold all widths in one: leave out --grid {grid}, or give another --format")
    if not packs_all and embeddings == 8:
        raise UserError(f"--format {format} holds embeddings of 16 or 32 bits")
    if packs_all and text is not None:
        raise UserError("--text is for the formats of one bitmap: score an artifact with switchq eval")
    if not packs_all and bits is not None:
        raise UserError("--bits is for artifacts: --bitmap says the widths of the other formats")
    if model is not None:
        grid = grid or GRIDS.get(format, "asymmetric")
    subject = load_subject(ckpt, model, base=base, bits=bits, grid=grid, group_size=group_size, scale=scale)
    console = Console()
    source = {"checkpoint": ckpt, "settings": subject.settings}
    if bitmap is not None:
        fixed = export_fixed(
            subject.model,
            subject.tokenizer,
            output,
            bitmap,
            format,
            adapters=cast(Adapters, adapters),
            float_bits=cast(FloatBits, embeddings or 32),
            windows=_windows(subject, text),
            source={**source, "base": subject.identity.to_dict()},
            overwrite=overwrite,
        )
        show_fixed(console, subject.name, fixed)
        return
    done = export_artifact(
        subject.model,
        subject.tokenizer,
        output,
        widths=bits or tuple(subject.widths),
        base=subject.identity.to_dict(),
        embedding_bits=cast(EmbeddingBits, embeddings or 16),
        data=subject.data,
        source=source,
        overwrite=overwrite,
    )
    _show(console, subject, done)


def _windows(subject: Subject, text: str | None) -> list[list[int]]:
    """The first windows of the text to measure on."""
    if text is None:
        return []
    return text_windows(text, subject.tokenizer, min(WINDOW, context_window(subject.model)))[:WINDOWS]


def _show(console: Console, subject: Subject, done: Exported) -> None:
    console.print(f"{subject.name} → {done.folder}", soft_wrap=True, highlight=False, markup=False)
    table = Table("part", "MB", box=box.SIMPLE)
    table.columns[1].justify = "right"
    for part, size in done.bytes.items():
        table.add_row(part, f"{size / MB:,.2f}")
    table.add_row("all", f"{sum(done.bytes.values()) / MB:,.2f}")
    console.print(table)
    if done.losses:
        trained = subject.settings["grid"]
        grid = Grid.from_dict(trained) if isinstance(trained, dict) else trained
        name = "Nested, double" if isinstance(grid, Nested) else type(grid).__name__
        console.print(
            f"It was trained on the grid {name}, whose codes do not nest: the weights were rounded again. Relative "
            f"squared error of the weights, as trained → in the artifact:",
            soft_wrap=True,
            highlight=False,
        )
        for bits, loss in done.losses.items():
            console.print(f"  {bits} bits   {loss.before:.2e} → {loss.after:.2e}", highlight=False)
        console.print(
            "Adapters were not trained for that. --model.grid Nested, not double, loses nothing.", soft_wrap=True
        )
    held = done.manifest.widths
    widths = [word for bits in held for word in ("--bitmap", bits)]
    score = command_line("switchq", "eval", "--artifact", done.folder, *widths, "--data", "FILE")
    generate = command_line("switchq", "generate", "--artifact", done.folder, "--prompt", "TEXT", "--bitmap", held[-1])
    for line in (f"Score it  {score}", f"Run it    {generate}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
