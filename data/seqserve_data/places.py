"""Where something stands in a file, for messages that help to find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Place:
    """A file, or a line or row of it, or a cell."""

    file: str
    """As the caller named it."""
    line: int | None = None
    """In a text file: counted from 1, as editors do."""
    row: int | None = None
    """In a table or array: counted from 0, as pandas and numpy do."""
    column: str | None = None
    """Name of a column, key or array."""

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts.append(f"line {self.line}")
        if self.row is not None:
            parts.append(f"row {self.row} (counted from 0)")
        if self.column is not None:
            parts.append(f"column {self.column!r}")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Source:
    """A file of records, and how its records are counted."""

    file: str
    """As the caller named it."""
    line_of: Callable[[int], int] | None = None
    """In a text file: the line of a record; None where records have no lines."""

    def place(self, record: int | None = None, column: str | None = None) -> Place:
        """The place of a record, of a column, of a cell where both are given, else the file."""
        if record is None or self.line_of is None:
            return Place(self.file, row=record, column=column)
        return Place(self.file, line=self.line_of(record), column=column)


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the sequences of a data set stand in their file."""

    source: Source
    records: Sequence[int]
    """The record in which each sequence begins."""
    label_column: str | None = None
    """The column of the labels."""

    def place(self, index: int) -> Place:
        """Where the label of sequence `index` stands."""
        return self.source.place(int(self.records[index]), self.label_column)

    def take(self, indices: Sequence[int]) -> Origin:
        """The origin of the sequences at `indices`, in that order."""
        return replace(self, records=[self.records[index] for index in indices])
