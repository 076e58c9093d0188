"""`switchq report`: any result files into one HTML page, and its plots into a folder."""

from pathlib import Path

from rich.console import Console

from switchq.errors import UserError
from switchq.evaluation import check_writable, write_bytes, write_text
from switchq.posttraining.report import UNDERSTOOD, build, read_sources, render
from switchq.words import count_of


def report_command(run: list[str] | None, output: str, figures: str | None, title: str | None, overwrite: bool) -> None:
    """See `switchq.verbs.report`, whose arguments these are.

    Raises:
        UserError: nothing to report on, a file that is not understood, an output that exists or cannot be written.
    """
    from switchq.plots.render import png, svg

    sources = read_sources(run or [])
    if Path(output).exists() and not overwrite:
        raise UserError(f"{output} exists already: give another --output, or --overwrite")
    check_writable(output)
    report = build(sources, title)
    if not report.sections:
        raise UserError(f"nothing to show in {', '.join(run or [])}: name one or more of {UNDERSTOOD}")
    if figures is not None:
        there = [name for one in report.figures for name in _files(figures, one.slug) if name.exists()]
        if there and not overwrite:
            raise UserError(f"{there[0]} exists already: give another --figures, or --overwrite")
        for one in report.figures:
            vector, raster = _files(figures, one.slug)
            write_text(vector, svg(one.chart), "--figures")
            write_bytes(raster, png(one.chart), "--figures")
    write_text(output, render(report))
    size = Path(output).stat().st_size / 1e6
    counts = f"{count_of(len(report.figures), 'figure')}, {count_of(len(report.tables), 'table')}"
    Console().print(f"Report {output} ({size:.1f} MB, {counts})", soft_wrap=True, highlight=False, markup=False)


def _files(folder: str, slug: str) -> tuple[Path, Path]:
    return Path(folder) / f"{slug}.svg", Path(folder) / f"{slug}.png"
