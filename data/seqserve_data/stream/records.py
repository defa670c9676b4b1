"""What the reader of a form hands on: rows of a file, in order, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

BATCH_VALUES = 1 << 18
"""Numbers of a batch, about: enough that a batch costs little beside what is in it."""
MAX_BATCH_ROWS = 1 << 16


@dataclass(frozen=True, eq=False)
class Records:
    """Consecutive rows of a file."""

    row: int
    """Rows of the file that lie before them."""
    batch: pa.RecordBatch
    """The columns that were asked for."""
    faults: Mapping[int, str] = field(default_factory=dict)
    """What was wrong with a row's features, by its index in the batch, where its columns could
    not hold them: they are null there."""


class Reader(Protocol):
    """A file of a certain form, opened."""

    @property
    def schema(self) -> pa.Schema:
        """The file's columns, and what each holds."""
        ...

    @property
    def rows(self) -> int | None:
        """Its records, None where only reading it would tell."""
        ...

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """Its records from `begin` on.

        Args:
            names: The columns to read.
            begin: Records to leave out: as few of them are read as the form allows.

        Raises:
            DataError: it is damaged or gone; says where.
        """
        ...


def batch_rows(values: int, rows: int) -> int:
    """How many rows a batch should have where `rows` of them hold so many values."""
    return max(1, min(MAX_BATCH_ROWS, BATCH_VALUES * rows // max(1, values)))
