"""The .jsonl form: a JSON object a line, a sequence or a step each."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import pyarrow as pa

from seqserve_data.errors import InvalidLayout, UnreadableData
from seqserve_data.places import Place
from seqserve_data.stream.files import File
from seqserve_data.stream.records import Records

_BLOCK = 1 << 22
"""Bytes of lines that make a batch, about."""
_LOOKED_AT = 1000
"""Records by which it is told what a key holds."""

_NUMBER = pa.float64()
_NUMBERS = pa.list_(_NUMBER)
_STEPS = pa.list_(_NUMBERS)

_SURROGATE = re.compile(rb"""\\u[dD][89a-fA-F]""")
"""Half a character, as JSON escapes it; JSON lets one stand alone, and Unicode does not."""

Line: TypeAlias = tuple[int, bytes]
"""Its number, counted from 1, and its text."""


class JsonLinesReader:
    """A .jsonl file, compressed or not.

    All keys but features are text, other values than strings as JSON has them, so that no type
    depends on the records that come first. Some megabytes of lines are in memory at a time, or
    the longest line. Lines before a begin are not parsed.
    """

    def __init__(self, file: File, features: Collection[str], guess: bool) -> None:
        """Reads the first records.

        Args:
            file: It.
            features: Keys of numbers or lists of such.
            guess: Whether others are too where the first record that has them says so.

        Raises:
            DataError: it is not there, or not JSON lines.
        """
        self._file = file
        first = [self._object(line) for line in islice(self._lines(), _LOOKED_AT)]
        self.rows: int | None = None if first else 0
        names = dict.fromkeys(name for record in first for name in record)
        self.schema = pa.schema(
            [
                (name, _type([record.get(name) for record in first], name in features))
                if guess or name in features
                else (name, pa.string())
                for name in names
            ]
        )

    def records(self, names: Sequence[str], begin: int) -> Iterator[Records]:
        """See `Reader`."""
        row, size, lines = begin, 0, []
        for line in islice(self._lines(), begin, None):
            lines.append(line)
            size += len(line[1])
            if size >= _BLOCK:
                yield self._records(row, lines, names)
                row, size, lines = row + len(lines), 0, []
        if lines:
            yield self._records(row, lines, names)

    def _lines(self) -> Iterator[Line]:
        """Those that are not blank."""
        with self._file.reading(), self._file.open_stream() as opened:
            for number, text in enumerate(_buffered(opened), 1):
                if not text.isspace():
                    yield number, text

    def _object(self, line: Line) -> dict[str, Any]:
        number, text = line
        place = Place(self._file.name, line=number)
        try:
            record = json.loads(text.decode("utf-8-sig"))
            if _SURROGATE.search(text):
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise UnreadableData(
                f"holds {half!r}, half a character: no Unicode text", place
            ) from error
        except (ValueError, RecursionError) as error:
            raise UnreadableData(f"is not JSON: {error}", place) from error
        if not isinstance(record, dict):
            raise InvalidLayout("is not a JSON object", place)
        return record

    def _records(self, row: int, lines: list[Line], names: Sequence[str]) -> Records:
        objects = [self._object(line) for line in lines]
        faults: dict[int, str] = {}
        columns = []
        for name in names:
            kind = self.schema.field(name).type
            cells = [record.get(name) for record in objects]
            if kind == pa.string():
                columns.append(pa.array(map(_text, cells), kind))
            else:
                # Arrow takes true for 1.
                doubtful = any(b"true" in text or b"false" in text for _, text in lines)
                columns.append(_numbers(cells, kind, name, faults, doubtful=doubtful))
        return Records(row, pa.RecordBatch.from_arrays(columns, list(names)), faults)


def _buffered(opened: pa.NativeFile) -> Iterator[bytes]:
    """Its lines."""
    raw: Any = opened  # what the stubs do not say: it reads as Python's own files do
    return io.BufferedReader(raw, _BLOCK)


def _type(cells: list[Any], is_feature: bool) -> pa.DataType:
    """What the first cell that tells it says a key holds."""
    for cell in cells:
        if isinstance(cell, list):
            inner = next((item for item in cell if item is not None), None)
            if isinstance(inner, list):
                return _STEPS
            if _is_number(inner):
                return _NUMBERS
        elif _is_number(cell):
            return _NUMBER
    return _NUMBER if is_feature else pa.string()


def _is_number(cell: object) -> bool:
    return type(cell) in (int, float)


def _text(cell: object) -> str | None:
    """A cell of a column that is no feature."""
    if cell is None or isinstance(cell, str):
        return cell
    return json.dumps(cell, ensure_ascii=False)


def _numbers(
    cells: list[Any], kind: pa.DataType, name: str, faults: dict[int, str], *, doubtful: bool
) -> pa.Array[Any]:
    """The cells as Arrow has them, null where one does not fit, which is added to the faults."""
    if not doubtful:
        try:
            return pa.array(cells, kind)
        except (pa.ArrowException, TypeError, OverflowError):
            pass
    fitting: list[Any] = []
    for row, cell in enumerate(cells):
        try:
            fitting.append(_fitted(cell, kind, name))
        except _Misfit as misfit:
            fitting.append(None)
            faults.setdefault(row, str(misfit))
    return pa.array(fitting, kind)


class _Misfit(Exception):
    """What is wrong with a cell."""


def _fitted(cell: object, kind: pa.DataType, name: str) -> object:
    """The cell, whole numbers as floats.

    Raises:
        _Misfit: it is not of this kind.
    """
    if cell is None:
        return None
    if kind == _NUMBER:
        return _number(cell, f"feature {name!r}")
    if not isinstance(cell, list):
        raise _Misfit(f"column {name!r} is not a list: {_shown(cell)}")
    if kind == _NUMBERS:
        return [_number(item, f"step {step}, feature {name!r}") for step, item in enumerate(cell)]
    for step, item in enumerate(cell):
        if not isinstance(item, list | None):
            raise _Misfit(f"step {step} is not a list: {_shown(item)}")
    return [
        item and [_number(n, f"step {step}, feature {i}") for i, n in enumerate(item)]
        for step, item in enumerate(cell)
    ]


def _number(cell: object, where: str) -> float | None:
    if cell is None:
        return None
    if type(cell) is float:
        return cell
    if type(cell) is not int:
        raise _Misfit(f"{where} is not a number: {_shown(cell)}")
    try:
        return float(cell)
    except OverflowError:
        raise _Misfit(f"{where} is beyond the range of float32 (about 3.4e38)") from None


def _shown(cell: object) -> str:
    return json.dumps(cell)[:40]
