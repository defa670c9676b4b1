"""The files of an input: one, those that a glob fits, those of a directory, or a list of such."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import unquote

import fsspec
import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from seqserve_data.errors import DataError, InvalidLayout, UnreadableData
from seqserve_data.places import Place

Sources = str | Path | Sequence[str | Path]

_COMPRESSIONS: Mapping[str, Literal["bz2", "gzip", "lz4", "zstd"]] = {
    ".bz2": "bz2",
    ".gz": "gzip",
    ".lz4": "lz4",
    ".zst": "zstd",
}
_CHECKSUMS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5")
"""Where object stores tell a digest of a file's content."""
_READ = 1 << 22
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, eq=False)
class File:
    """A file of an input."""

    name: str
    """As messages have it: what the user gave leads to it."""
    relative: str
    """Its path below what the user gave, as `/` has it; the base name of a file that was named."""
    filesystem: AbstractFileSystem
    path: str
    """On that file system."""
    partitions: Mapping[str, str | None]
    """What its path says of all its records: `key=value` as Hive has it, None where it is null."""

    @property
    def suffix(self) -> str:
        """The form: `.csv` of `a.csv`, and of `a.csv.gz`."""
        path = PurePosixPath(self.path.lower())
        return PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix

    def open(self) -> pa.NativeFile:
        """For reading at any place of it."""
        if isinstance(self.filesystem, LocalFileSystem):
            return pa.OSFile(self.path, "rb")
        return PyFileSystem(_handler(self.filesystem)).open_input_file(self.path)

    def map(self) -> pa.NativeFile:
        """The same, as memory that is read when it is looked at, where the file is local."""
        if isinstance(self.filesystem, LocalFileSystem):
            return pa.memory_map(self.path)
        return self.open()

    def open_stream(self) -> pa.NativeFile:
        """For reading from its beginning, decompressed where its suffix says it is compressed."""
        raw = self.open()
        codec = _COMPRESSIONS.get(PurePosixPath(self.path).suffix.lower())
        return pa.CompressedInputStream(raw, codec) if codec else raw

    def place(self, row: int | None = None, column: str | None = None) -> Place:
        """For messages."""
        return Place(self.name, row=row, column=column)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turns what a library raises into an error that names the file."""
        try:
            yield
        except DataError:
            raise
        except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
            said = error.strerror if isinstance(error, OSError) else None
            raise UnreadableData(
                f"not readable as {self.suffix}: {_printable(said or str(error))}", self.place()
            ) from error

    def digest(self) -> str:
        """What changes when the content does: the store's own checksum, else sha256.

        Raises:
            UnreadableData: it cannot be read.
        """
        with self.reading():
            if not isinstance(self.filesystem, LocalFileSystem):
                info = self.filesystem.info(self.path)
                told = [f"{key}={info[key]}" for key in _CHECKSUMS if info.get(key)]
                if told:
                    return f"size={info['size']} {' '.join(told)}"
            sha256 = hashlib.sha256()
            with self.filesystem.open(self.path, "rb", block_size=_READ) as opened:
                while chunk := opened.read(_READ):
                    sha256.update(chunk)
            return sha256.hexdigest()


def _printable(text: str) -> str:
    """In a line, whatever of a damaged file it quotes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _handler(filesystem: AbstractFileSystem) -> Any:  # noqa: ANN401
    """Arrow's view of it; the stubs take its methods for abstract."""
    handler: Any = FSSpecHandler
    return handler(filesystem)


def find(sources: Sources, options: Mapping[str, Any] | None = None) -> tuple[File, ...]:
    """The files that are meant, in the order they are read.

    Those of a glob or a directory come by name, numbers in it as numbers; in a directory names
    that begin with `.` or `_` are left aside, as others write their notes under such names.

    Args:
        sources: Paths, globs, directories or fsspec URLs.
        options: For fsspec: what a store wants to know.

    Raises:
        DataError: there is none, one is meant twice, or they are of more than one form.
    """
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    files = [file for source in named for file in _of_source(str(source), options or {})]
    if not files:
        raise UnreadableData("no input is named")
    first: dict[tuple[AbstractFileSystem, str], File] = {}
    for file in files:
        if first.setdefault((file.filesystem, file.path), file) is not file:
            raise InvalidLayout("is named twice; each row is read once", file.place())
        if file.suffix != files[0].suffix:
            raise InvalidLayout(
                f"is {file.suffix or 'of no form'}, but {files[0].name} is {files[0].suffix}; "
                "the files of an input have one form",
                file.place(),
            )
    return tuple(files)


def _of_source(source: str, options: Mapping[str, Any]) -> list[File]:
    place = Place(source)
    try:
        filesystem, path = fsspec.core.url_to_fs(source, **options)
        paths, root = _paths(filesystem, path)
    except (ImportError, ValueError) as error:
        raise UnreadableData(f"no such place: {error}", place) from error
    except OSError as error:
        raise UnreadableData(f"not readable: {error.strerror or error}", place) from error
    if not paths and filesystem.isdir(path):
        raise UnreadableData(
            "the folder has no file of a form that is read (names that begin with . or _ are left "
            "aside)",
            place,
        )
    if not paths:
        raise UnreadableData("no such file, and no file that this fits", place)
    name = _named_as(source, filesystem)
    return [_file(filesystem, found, root, name(found)) for found in paths]


def _named_as(source: str, filesystem: AbstractFileSystem) -> Callable[[str], str]:
    """How a path is named to a user who gave `source`: likewise."""
    if "://" in source:
        return cast("Callable[[str], str]", filesystem.unstrip_protocol)
    return str if os.path.isabs(source) else os.path.relpath


def _paths(filesystem: AbstractFileSystem, path: str) -> tuple[list[str], str]:
    """The files, and the directory that their names are relative to."""
    if filesystem.isfile(path):  # whatever characters its name has
        return [path], filesystem._parent(path)
    if filesystem.isdir(path):
        found = [file for file in filesystem.find(path) if not _hidden(file, path)]
        return sorted(found, key=_natural), path
    magic = re.search(r"[*?[]", path)
    if magic is None:
        return [], path
    root = path[: magic.start()].rpartition("/")[0]
    matches = filesystem.glob(path, detail=True).items()
    # A link to a file is told to be neither file nor directory.
    found = [p for p, info in matches if info["type"] == "file" or filesystem.isfile(p)]
    return sorted(found, key=_natural), root


def _file(filesystem: AbstractFileSystem, path: str, root: str, name: str) -> File:
    relative = path.removeprefix(root).lstrip("/")
    pairs = (part.split("=", 1) for part in relative.split("/")[:-1] if "=" in part)
    return File(
        name=name,
        relative=relative,
        filesystem=filesystem,
        path=path,
        partitions={k: None if v == _HIVE_NULL else unquote(v) for k, v in pairs},
    )


def _hidden(path: str, root: str) -> bool:
    parts = path.removeprefix(root).lstrip("/").split("/")
    return any(part.startswith((".", "_")) and "=" not in part for part in parts)


def _natural(path: str) -> tuple[list[str | int], str]:
    """By text, where the numbers in it count as numbers: part-10 comes after part-9."""
    parts = re.split(r"([0-9]+)", path)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path
