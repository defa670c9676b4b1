"""What is asked of a place where files lie."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, Protocol

from seqserve_jobs.errors import JobError, OutputError

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.unfinished")


Mark = tuple[object, ...]
"""Another one where a file was written anew; as far as its place tells without reading it."""


class Files(Protocol):
    """Files by their whole paths. Can be pickled; every method raises OutputError."""

    def put(self, path: str, content: bytes, aside: str | None = None) -> None:
        """Writes a file: others see all of it or what was there before, even after a power cut.

        Args:
            path: The file.
            content: All of it.
            aside: The folder in which it may lie while it is written; its own by default.
        """
        ...

    def writing(self, path: str, aside: str | None = None) -> AbstractContextManager[BinaryIO]:
        """The same for one of any size: it is there once the context ends without an error."""
        ...

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        ...

    def sha256(self, path: str) -> str | None:
        """Of a file's content, in hexadecimal digits; None where there is no such file."""
        ...

    def size(self, path: str) -> int | None:
        """A file's size in bytes; None where there is no such file."""
        ...

    def sizes(self, folder: str) -> dict[str, int | None]:
        """The names in a folder, with sizes; None for a folder in it. Empty where there is none."""
        ...

    def marks(self, folder: str) -> dict[str, Mark]:
        """The files in a folder, each with what tells that it was written anew."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file, where there is one."""
        ...

    def remove_folder(self, path: str) -> None:
        """Removes a folder, where there is an empty one."""
        ...

    def lock(self, path: str) -> AbstractContextManager[None]:
        """Held by one job at a time, whose name is in that file.

        Raises:
            OutputInUse: another holds it.
        """
        ...


def files_at(url: str, storage_options: Mapping[str, Any]) -> tuple[Files, str]:
    """The place that a path or an fsspec URL means, and the path there.

    Raises:
        OutputError: what the URL needs is not installed, or it cannot be reached.
    """
    from seqserve_jobs.storage.local import LocalFiles
    from seqserve_jobs.storage.remote import RemoteFiles

    scheme, found, path = url.partition("://")
    if not found:
        return LocalFiles(), os.path.abspath(url)
    if scheme in ("file", "local"):
        return LocalFiles(), os.path.abspath(path)
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url, **storage_options)
    except (ImportError, ValueError, OSError) as error:
        raise OutputError(f"{url}: {error}") from error
    return RemoteFiles(system), path.rstrip("/")


def unfinished(path: str, aside: str | None) -> str:
    """What a file is called while it is written; readers of folders pass over such names."""
    folder, name = os.path.split(path)
    # Of its own each time: a worker that was given up may still write the same file.
    return os.path.join(aside or folder, f".{name}.{secrets.token_hex(4)}.unfinished")


def is_unfinished(name: str) -> bool:
    """Whether a file is called so while it is written."""
    return _UNFINISHED.fullmatch(name) is not None


@contextmanager
def told_of(path: str, doing: str, errors: type[Exception] = OSError) -> Iterator[None]:
    """Makes an OutputError of what a file system says.

    Args:
        path: What it is about.
        doing: What cannot be done with it.
        errors: What its library raises.
    """
    try:
        yield
    except JobError:
        raise
    except errors as error:
        said = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be {doing}: {said}") from error
