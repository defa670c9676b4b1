"""Finds the reader for a file or a bundled name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from seqserve_data.bundled import sets
from seqserve_data.columns import BY_CONVENTION, Columns
from seqserve_data.dataset import Dataset
from seqserve_data.errors import InvalidLayout, UnreadableData
from seqserve_data.places import Place


def read(source: str | os.PathLike[str], columns: Columns = BY_CONVENTION) -> Dataset:
    """The data set in a file, read by its suffix, or the bundled one of that name.

    Args:
        source: A path to a .csv, .jsonl, .npz, .parquet or .ts file, or `japanese-vowels`,
            `japanese-vowels/test` or `random`.
        columns: Which columns hold what, for .csv, .jsonl and .parquet.

    Raises:
        DataError: says what is wrong, and in which row and column.
    """
    name = os.fspath(source)
    path = Path(name)
    suffix = path.suffix.lower()
    if columns.named and (name in sets.NAMES or suffix in (".npz", ".ts")):
        raise InvalidLayout(
            "has no columns to name; those of .csv, .jsonl and .parquet can be", Place(name)
        )
    if name in sets.NAMES:
        return sets.read(name)
    try:
        _check_file(name, path)
        return _READERS[suffix](path, columns)
    except OSError as error:
        raise UnreadableData(f"not readable: {error.strerror or error}", Place(name)) from error
    except ImportError as error:
        raise UnreadableData(
            f"{suffix} files are read with pyarrow: pip install 'seqserve[data]' ({error})",
            Place(name),
        ) from error


def _check_file(name: str, path: Path) -> None:
    """Refuses what is no file, or has a suffix that is not read."""
    if not path.exists():
        bundled = "" if path.suffix else f", nor bundled set: those are {', '.join(sets.NAMES)}"
        raise UnreadableData(f"no such file{bundled}", Place(name))
    if path.is_dir():
        raise UnreadableData("is a folder; a file is needed", Place(name))
    if path.suffix.lower() not in _READERS:
        raise UnreadableData(
            f"a file with suffix {path.suffix!r} is not read; {', '.join(_READERS)} are",
            Place(name),
        )


# A reader is imported when it is called, so that its library is.
def _csv(path: Path, columns: Columns) -> Dataset:
    from seqserve_data import csv

    return csv.read(path, columns)


def _jsonl(path: Path, columns: Columns) -> Dataset:
    from seqserve_data import jsonl

    return jsonl.read(path, columns)


def _npz(path: Path, columns: Columns) -> Dataset:
    from seqserve_data import npz

    return npz.read(path)


def _parquet(path: Path, columns: Columns) -> Dataset:
    from seqserve_data import parquet

    return parquet.read(path, columns)


def _ts(path: Path, columns: Columns) -> Dataset:
    from seqserve_data import ts

    return ts.read(path)


_READERS: Mapping[str, Callable[[Path, Columns], Dataset]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".npz": _npz,
    ".parquet": _parquet,
    ".ts": _ts,
}
