"""The .csv form: text, parsed in blocks; a cell that is no number is a fault of its row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from seqserve_data.arrow import first_uncastable
from seqserve_data.numbers import is_number
from seqserve_data.stream.files import File
from seqserve_data.stream.records import Records

# Arrow reads 32 blocks ahead, whatever is asked for; with threads it names no row in its errors.
_READ = csv.ReadOptions(block_size=1 << 18, use_threads=False)
"""How much is parsed at a time; a row is shorter."""
_PARSE = csv.ParseOptions(newlines_in_values=True)
_LOOKED_AT = 1000
"""Records by which it is told which columns hold numbers."""


class CsvReader:
    """A .csv file, compressed or not: commas, a header line, only empty cells are missing.

    All columns but features are text, so that no type depends on the rows that come first. Of the
    file's text some 8 MiB are in memory, which is how far Arrow reads ahead. What lies before a
    begin is parsed, but not converted.
    """

    def __init__(self, file: File, features: Collection[str], guess: bool) -> None:
        """Reads the header and the first records.

        Args:
            file: It.
            features: Columns of numbers.
            guess: Whether others are too where most of the first records have numbers there.

        Raises:
            UnreadableData: it is not there, or not .csv.
        """
        self._file = file
        with file.reading(), file.open_stream() as opened:
            is_empty = not opened.read(1)
        if is_empty:
            self.rows: int | None = 0
            self.schema = pa.schema([])
            return
        with file.reading(), file.open_stream() as opened:
            names = csv.open_csv(cast("IO[bytes]", opened), _READ, _PARSE).schema.names
        first = next((batch for batch in self._batches(names) if batch.num_rows), None)
        self.rows = None if first else 0
        numeric = {*features, *(_numeric(first) if first and guess else ())}
        self.schema = pa.schema(
            [(name, pa.float64() if name in numeric else pa.string()) for name in names]
        )

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """See `Reader`."""
        row = 0
        for batch in self._batches(names):
            if row + batch.num_rows > begin:
                skip = max(0, begin - row)
                yield self._converted(batch.slice(skip), row + skip)
            row += batch.num_rows

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Those columns as text."""
        with self._file.reading(), self._file.open_stream() as opened:
            yield from csv.open_csv(
                cast("IO[bytes]", opened),
                _READ,
                _PARSE,
                csv.ConvertOptions(
                    include_columns=list(names),
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )

    def _converted(self, batch: pa.RecordBatch, row: int) -> Records:
        faults: dict[int, str] = {}
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kind = self.schema.field(name).type
            columns.append(_numbers(column, name, faults) if kind == pa.float64() else column)
        return Records(row, pa.RecordBatch.from_arrays(columns, batch.schema.names), faults)


def _numeric(batch: pa.RecordBatch) -> set[str]:
    """The columns of which most of the first cells are numbers."""
    found = set()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        cells: list[str] = cast("Any", column.slice(0, _LOOKED_AT).drop_null()).to_pylist()
        if 2 * sum(map(is_number, cells)) > len(cells):
            found.add(name)
    return found


def _numbers(text: pa.Array[Any], name: str, faults: dict[int, str]) -> pa.Array[Any]:
    """The numbers, null where a cell has none, which is added to the faults."""
    with suppress(pa.ArrowInvalid):
        return text.cast(pa.float64())
    text = pc.utf8_trim_whitespace(text)
    with suppress(pa.ArrowInvalid):
        return text.cast(pa.float64())
    valid = np.array([cell is None or is_number(cell) for cell in text.to_pylist()])
    numbers = pc.if_else(pa.array(valid), text, None)
    # What Python reads as a number and Arrow does not.
    while (row := first_uncastable(pa.chunked_array([numbers]), pa.float64())) is not None:
        valid[row] = False
        numbers = pc.if_else(pa.array(valid), text, None)
    for row in np.flatnonzero(~valid).tolist():
        faults.setdefault(row, f"feature {name!r} is not a number: {text[row].as_py()[:40]!r}")
    return cast("pa.Array[Any]", numbers.cast(pa.float64()))
