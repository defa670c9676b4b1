"""The .csv form: text, parsed in blocks.

A cell that is no number is a fault of its row, and so are more cells or fewer than the header has.
"""

from __future__ import annotations

import csv as text_csv
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from seqserve_data.arrow import first_uncastable
from seqserve_data.errors import UnreadableData
from seqserve_data.numbers import is_number
from seqserve_data.stream.files import File
from seqserve_data.stream.records import Records

# Arrow reads 32 blocks ahead, whatever is asked for; with threads it names no row in its errors.
_READ = csv.ReadOptions(block_size=1 << 18, use_threads=False)
"""How much is parsed at a time; a row is shorter."""
_HEADER_ROWS = 1
_LOOKED_AT = 1000
"""Records by which it is told which columns hold numbers."""


@dataclass(frozen=True)
class _Ragged:
    """A row of more cells or fewer than the header has."""

    index: int
    """Records of the file that lie before it."""
    cells: list[str]


class _Batch(NamedTuple):
    """Consecutive rows."""

    row: int
    """Records of the file that lie before them."""
    text: pa.RecordBatch
    faults: Mapping[int, str]
    """What is wrong with those that are ragged, by their index in the batch."""


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
            options = _parsing(lambda _: "skip")
            self._header = csv.open_csv(cast("IO[bytes]", opened), _READ, options).schema.names
        first = next((batch for batch in self._batches(self._header) if batch.text.num_rows), None)
        self.rows = None if first else 0
        if first and 2 * len(first.faults) > first.text.num_rows:
            reason = next(iter(first.faults.values()))
            raise UnreadableData(
                f"its header does not fit most of its rows: {reason}", file.place()
            )
        numeric = {*features, *(_numeric(first.text) if first and guess else ())}
        self.schema = pa.schema(
            [(name, pa.float64() if name in numeric else pa.string()) for name in self._header]
        )

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """See `Reader`."""
        for row, text, faults in self._batches(names):
            skip = max(0, begin - row)
            if skip < text.num_rows:
                left = {index - skip: why for index, why in faults.items() if index >= skip}
                yield self._converted(text.slice(skip), row + skip, left)

    def _batches(self, names: Sequence[str]) -> Iterator[_Batch]:
        """Those columns as text."""
        ragged: deque[_Ragged] = deque()  # of what has been parsed, not yet put in its place

        def put_aside(row: csv.InvalidRow) -> Literal["skip"]:
            assert row.number is not None  # as one thread reads
            cells = next(text_csv.reader([row.text], strict=False), [])
            ragged.append(_Ragged(row.number - _HEADER_ROWS - 1, cells))
            return "skip"

        row = 0
        with self._file.reading(), self._file.open_stream() as opened:
            for text in csv.open_csv(
                cast("IO[bytes]", opened),
                _READ,
                _parsing(put_aside),
                csv.ConvertOptions(
                    include_columns=list(names),
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            ):
                within: list[_Ragged] = []
                while ragged and ragged[0].index < row + text.num_rows + len(within):
                    within.append(ragged.popleft())
                batch = self._whole(row, text, within)
                yield batch
                row += batch.text.num_rows
        if ragged and row and len(ragged[-1].cells) < len(self._header):
            raise UnreadableData(f"is cut off: {self._reason(ragged[-1])}", self._file.place())
        if ragged:
            none = pa.array([], pa.string())
            yield self._whole(
                row, pa.RecordBatch.from_arrays([none] * len(names), [*names]), [*ragged]
            )

    def _whole(self, first: int, text: pa.RecordBatch, ragged: Sequence[_Ragged]) -> _Batch:
        """The rows with the ragged ones in their places, each cell by its place in the row."""
        if not ragged:
            return _Batch(first, text, {})
        places = [self._header.index(name) for name in text.schema.names]
        columns = [
            pa.array(
                ["".join(each.cells[place : place + 1]) or None for each in ragged], pa.string()
            )
            for place in places
        ]
        odd = pa.RecordBatch.from_arrays(columns, schema=text.schema)
        both, number = pa.Table.from_batches([text, odd]), text.num_rows
        before = [each.index - first - within for within, each in enumerate(ragged)]
        order = np.insert(np.arange(number), before, np.arange(number, number + len(ragged)))
        (whole,) = both.take(pa.array(order, pa.int64())).combine_chunks().to_batches()
        return _Batch(first, whole, {each.index - first: self._reason(each) for each in ragged})

    def _reason(self, ragged: _Ragged) -> str:
        return (
            f"row {ragged.index + _HEADER_ROWS + 1} of the file has {len(ragged.cells)} cells; "
            f"its header has {len(self._header)}"
        )

    def _converted(self, batch: pa.RecordBatch, row: int, ragged: Mapping[int, str]) -> Records:
        faults = dict(ragged)
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kind = self.schema.field(name).type
            columns.append(_numbers(column, name, faults) if kind == pa.float64() else column)
        return Records(row, pa.RecordBatch.from_arrays(columns, batch.schema.names), faults)


def _parsing(ragged: Callable[[csv.InvalidRow], Literal["skip"]]) -> csv.ParseOptions:
    return csv.ParseOptions(newlines_in_values=True, invalid_row_handler=ragged)


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
