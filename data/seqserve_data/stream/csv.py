"""The .csv form: text, parsed in blocks.

A cell that is no number is a fault of its row, and so are more cells or fewer than the header has.
"""

from __future__ import annotations

import codecs
import csv as text_csv
import io
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from seqserve_data.arrow import first_uncastable
from seqserve_data.errors import UnreadableData
from seqserve_data.numbers import is_number
from seqserve_data.stream.files import File
from seqserve_data.stream.records import MAX_BATCH_ROWS, Records

# Arrow reads 32 blocks ahead, whatever is asked for; with threads it names no row in its errors.
_READ = csv.ReadOptions(block_size=1 << 18, use_threads=False)
"""How much is parsed at a time; a row is shorter."""
_HEADER_ROWS = 1
_REPLACED = "\ufffd"
_LOOKED_AT = 1000
"""Records by which it is told which columns hold numbers."""


class _Ragged(NamedTuple):
    """A row of more cells or fewer than the header has."""

    row: int
    """Records of the file that lie before it."""
    number: int
    """Of its cells."""
    text: str

    def cells(self) -> list[str]:
        try:
            return next(text_csv.reader([self.text], strict=False), [])
        except text_csv.Error:  # a cell longer than that module takes
            content = io.BytesIO(self.text.encode())
            names = [str(place) for place in range(self.number)]
            row = csv.read_csv(
                content,
                csv.ReadOptions(column_names=names, use_threads=False),
                csv.ParseOptions(newlines_in_values=True),
                csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
            return [column[0].as_py() for column in row.columns]


class _Utf8:
    """Makes UTF-8 of a file's bytes: a ragged row that is none cannot be told by Arrow."""

    def __init__(self) -> None:
        self.is_damaged = False
        """Whether something that is no UTF-8 has become U+FFFD."""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __call__(self, content: pa.Buffer) -> bytes:
        piece, is_end = bytes(cast("Any", content)), len(content) == 0
        if piece.isascii() and not is_end and not self._decoder.getstate()[0]:
            return piece
        try:
            text = self._decoder.decode(piece, is_end)
        except UnicodeDecodeError:
            self.is_damaged, self._decoder.errors = True, "replace"
            text = self._decoder.decode(piece, is_end)
        return text.encode()

    def check(self, names: Sequence[str], columns: Sequence[pa.Array[Any]]) -> None:
        """What is not read of a file may be damaged.

        Raises:
            UnicodeError: what is read is.
        """
        for name, column in zip(names, columns, strict=True) if self.is_damaged else ():
            found = cast("Any", pc.match_substring(column, _REPLACED))
            if _REPLACED in name or pc.any(found).as_py():
                raise UnicodeError(f"invalid UTF8 data in column {name!r}")


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
    file's text some 8 MiB are in memory, which is how far Arrow reads ahead, and of its ragged rows
    those of two blocks. What lies before a begin is parsed, but not converted.
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
            options, utf8 = _parsing(lambda _: "skip"), _Utf8()
            self._header = csv.open_csv(_text(opened, utf8), _READ, options).schema.names
            utf8.check(self._header, [pa.array([], pa.string())] * len(self._header))
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
            ragged.append(_Ragged(row.number - _HEADER_ROWS - 1, row.actual_columns, row.text))
            return "skip"

        row, utf8 = 0, _Utf8()
        with self._file.reading(), self._file.open_stream() as opened:
            for text in csv.open_csv(
                _text(opened, utf8),
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
                while ragged and ragged[0].row < row + text.num_rows + len(within):
                    within.append(ragged.popleft())
                # Where no row of a block is whole none tells their places: they are the next. The
                # last is kept back, as it may be the file's.
                while not text.num_rows and len(ragged) > 1:
                    within.append(ragged.popleft())
                for batch in self._whole(row, text, within):
                    utf8.check(names, batch.text.columns)
                    yield batch
                row += text.num_rows + len(within)
            if ragged and row and ragged[-1].number < len(self._header):
                raise UnreadableData(f"is cut off: {self._reason(ragged[-1])}", self._file.place())
            none = pa.array([], pa.string())
            rest = pa.RecordBatch.from_arrays([none] * len(names), [*names])
            for batch in self._whole(row, rest, [*ragged]):
                utf8.check(names, batch.text.columns)
                yield batch

    def _whole(
        self, first: int, text: pa.RecordBatch, ragged: Sequence[_Ragged]
    ) -> Iterator[_Batch]:
        """The rows with the ragged ones in their places, each cell by its place in the row."""
        faults = {each.row - first: self._reason(each) for each in ragged}
        if ragged:
            rows = [each.cells() for each in ragged]
            places = [self._header.index(name) for name in text.schema.names]
            columns = [
                pa.array(["".join(cells[place : place + 1]) or None for cells in rows], pa.string())
                for place in places
            ]
            odd = pa.RecordBatch.from_arrays(columns, schema=text.schema)
            both, number = pa.Table.from_batches([text, odd]), text.num_rows
            before = [each.row - first - within for within, each in enumerate(ragged)]
            order = np.insert(np.arange(number), before, np.arange(number, number + len(ragged)))
            (text,) = both.take(pa.array(order, pa.int64())).combine_chunks().to_batches()
        for begin in range(0, text.num_rows, MAX_BATCH_ROWS):
            piece = text.slice(begin, MAX_BATCH_ROWS)
            own = range(begin, begin + piece.num_rows)
            yield _Batch(
                first + begin, piece, {i - begin: why for i, why in faults.items() if i in own}
            )

    def _reason(self, ragged: _Ragged) -> str:
        return (
            f"row {ragged.row + _HEADER_ROWS + 1} of the file has {ragged.number} cells; "
            f"its header has {len(self._header)}"
        )

    def _converted(self, batch: pa.RecordBatch, row: int, ragged: Mapping[int, str]) -> Records:
        faults = dict(ragged)
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kind = self.schema.field(name).type
            columns.append(_numbers(column, name, faults) if kind == pa.float64() else column)
        return Records(row, pa.RecordBatch.from_arrays(columns, batch.schema.names), faults)


def _text(opened: pa.NativeFile, utf8: _Utf8) -> IO[bytes]:
    return cast("IO[bytes]", pa.TransformInputStream(opened, utf8))


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
