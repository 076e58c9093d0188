"""Tables on a terminal whose rows come in groups of one width, as many columns to each as the terminal is wide."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

Cells = list[str]

Column = tuple[str, Cells]
"""A head and a cell for each row."""


def grouped_table(widths: Sequence[int], fixed: list[Column], chunk: list[Column], title: str | None = None) -> Table:
    """A table whose rows of one width are set apart.

    Args:
        widths: of each row, equal ones together.
        fixed: head and cells of the columns on the left; those that are called effective are numbers.
        chunk: of the columns of numbers.
        title: above it.
    """
    table = empty_table(title)
    table.add_column("bits", justify="right", vertical="bottom", no_wrap=True)
    for head, _ in fixed:
        table.add_column(
            head, justify="right" if head.startswith("effective") else "left", vertical="bottom", no_wrap=True
        )
    for head, _ in chunk:
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    for at, bits in enumerate(widths):
        cells = [cells[at] for _, cells in (*fixed, *chunk)]
        first, last = at == 0 or widths[at - 1] != bits, at + 1 == len(widths) or widths[at + 1] != bits
        table.add_row(str(bits) if first else "", *cells, end_section=last)
    return table


def fitting(columns: list[Column], fixed: list[Column], width: int) -> Iterator[list[Column]]:
    """The columns in portions that fit beside the fixed ones, one column at least each."""
    room = width - sum(map(_width, fixed))
    chunk: list[Column] = []
    for column in columns:
        if chunk and sum(map(_width, [*chunk, column])) > room - 6:
            yield chunk
            chunk = []
        chunk.append(column)
    if chunk:
        yield chunk


def _width(column: Column) -> int:
    head, cells = column
    plain = [cell.removeprefix("[bold]").removesuffix("[/]") for cell in cells]
    return max(map(len, [*head.split("\n"), *plain])) + 2


def empty_table(title: str | None) -> Table:
    """A table without columns yet, in this program's style."""
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
