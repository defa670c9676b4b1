"""Tables for people: drawn on a terminal, plain columns in a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Literal, TextIO

Align = Literal["left", "right"]


def print_table(
    columns: Sequence[tuple[str, Align]],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    file: TextIO | None = None,
) -> None:
    """Prints rows of text under headings.

    Args:
        columns: Heading and alignment of each column.
        rows: The cells, as they are; nothing in them is read as markup.
        title: What stands above.
        file: Where to; standard output by default.
    """
    file = file or sys.stdout
    if file.isatty():
        _draw(columns, rows, title, file)
    else:
        _write(columns, rows, title, file)


def _draw(
    columns: Sequence[tuple[str, Align]],
    rows: Iterable[Sequence[str]],
    title: str | None,
    file: TextIO,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for heading, align in columns:
        table.add_column(Text(heading), justify=align)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=file).print(table)


def _write(
    columns: Sequence[tuple[str, Align]],
    rows: Iterable[Sequence[str]],
    title: str | None,
    file: TextIO,
) -> None:
    lines = [[heading for heading, _ in columns], *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    if title:
        file.write(title + "\n")
    for line in lines:
        cells = [
            cell.rjust(width) if align == "right" else cell.ljust(width)
            for cell, width, (_, align) in zip(line, widths, columns, strict=True)
        ]
        file.write("  ".join(cells).rstrip() + "\n")
