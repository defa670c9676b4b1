"""The forms that are read, by suffix."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from seqserve_data.errors import UnreadableData
from seqserve_data.stream.csv import CsvReader
from seqserve_data.stream.files import File
from seqserve_data.stream.ipc import IpcReader
from seqserve_data.stream.jsonl import JsonLinesReader
from seqserve_data.stream.parquet import ParquetReader
from seqserve_data.stream.records import Reader


def open_reader(file: File, features: Collection[str], *, guess: bool) -> Reader:
    """The reader of a file.

    Args:
        file: Of a form that is read.
        features: Columns known to be features: files of text do not say what is a number.
        guess: Whether to tell by the first records of a file of text which of its other columns
            are numbers; else all are text.

    Raises:
        DataError: no such form, or the file cannot be read.
    """
    make = _READERS.get(file.suffix)
    if make is None:
        raise UnreadableData(
            f"a file with suffix {file.suffix!r} is not read; {', '.join(_READERS)} are",
            file.place(),
        )
    reader = make(file, features, guess)
    with file.reading():
        _ = reader.schema.names  # Arrow decodes them only when they are asked for
    return reader


_READERS: Mapping[str, Callable[[File, Collection[str], bool], Reader]] = {
    ".parquet": lambda file, features, guess: ParquetReader(file),
    ".csv": CsvReader,
    ".jsonl": JsonLinesReader,
    ".ndjson": JsonLinesReader,
    ".arrow": lambda file, features, guess: IpcReader(file),
    ".arrows": lambda file, features, guess: IpcReader(file),
    ".feather": lambda file, features, guess: IpcReader(file),
    ".ipc": lambda file, features, guess: IpcReader(file),
}
