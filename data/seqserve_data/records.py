"""The records of a .csv file and their lines, for its header and for messages.

The numbers are Arrow's to read; it does not say on which line a record stands.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from seqserve_data.errors import InvalidLayout, UnreadableData
from seqserve_data.places import Place


def header(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        DataError: the file is empty, or not .csv.
    """
    first = next(_records(path), None)
    if first is None:
        raise InvalidLayout("is empty; a header line is needed", Place(str(path)))
    return first[1]


def line_of_record(path: Path, record: int) -> int:
    """The line, counted from 1, on which a record begins.

    Args:
        path: The .csv file.
        record: Counted from 0, the header left out.
    """
    return next(line for index, (line, _) in enumerate(_records(path), -1) if index == record)


def misshapen(path: Path) -> InvalidLayout | None:
    """What is wrong with the first record that has not the header's number of columns, if any."""
    columns = len(header(path))
    for line, cells in _records(path):
        if len(cells) != columns:
            return InvalidLayout(
                f"has {len(cells)} columns, but the header has {columns}",
                Place(str(path), line=line),
            )
    return None


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record begins, and its cells; a blank line is no record."""
    begins = 1
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        try:
            for cells in reader:
                if cells:
                    yield begins, cells
                begins = reader.line_num + 1
        except csv.Error as error:
            raise UnreadableData(f"is not .csv: {error}", Place(str(path), line=begins)) from error
