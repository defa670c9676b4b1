"""Files of an object store, or of another file system that fsspec knows."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem

from seqserve_jobs.storage.files import Mark, told_of, unfinished
from seqserve_jobs.storage.lease import Lease, leased

_CHUNK = 1 << 20
_MARKS = (
    *("ETag", "etag", "md5Hash", "crc32c", "content_md5", "generation", "VersionId"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)
"""Where file systems tell of a content, or of when it was written."""


class RemoteFiles:
    """By fsspec.

    An object store shows an object once it is whole. Where a put is no such thing, as over SFTP, a
    part may be seen half-written until its job goes on.

    Args:
        system: Of the URL.
    """

    def __init__(self, system: AbstractFileSystem) -> None:
        self._system = system
        self._lease: Lease | None = None

    def __getstate__(self) -> dict[str, object]:
        """Without the lease, which is held here."""
        return {"_system": self._system, "_lease": None}

    def put(self, path: str, content: bytes, aside: str | None = None) -> None:
        """In one piece, nothing aside."""
        self._check_lease()
        with _told_of(path, "written"):
            try:
                self._system.pipe_file(path, content)
            except FileNotFoundError:
                self._make_folders(posixpath.dirname(path))
                self._system.pipe_file(path, content)

    @contextmanager
    def writing(self, path: str, aside: str | None = None) -> Iterator[BinaryIO]:
        """Writes aside, then moves: on an object store a copy that it makes by itself."""
        written = unfinished(path, aside)
        with _told_of(path, "written"):
            try:
                with self._system.open(written, "wb") as file:
                    yield cast(BinaryIO, file)
                self._check_lease()
                self._system.mv(written, path)
            except BaseException:
                with suppress(Exception):  # there may be none
                    self._system.rm_file(written)
                raise

    def read(self, path: str) -> bytes | None:
        """All of it."""
        with _told_of(path, "read"), suppress(FileNotFoundError):
            return cast(bytes, self._system.cat_file(path))
        return None

    def sha256(self, path: str) -> str | None:
        """Of what it reads, a little at a time: not every store tells of one."""
        with _told_of(path, "read"), suppress(FileNotFoundError):
            self._system.invalidate_cache(posixpath.dirname(path))
            sha256 = hashlib.sha256()
            with self._system.open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    sha256.update(chunk)
            return sha256.hexdigest()
        return None

    def size(self, path: str) -> int | None:
        """As the store has it now."""
        with _told_of(path, "read"), suppress(FileNotFoundError):
            self._system.invalidate_cache(posixpath.dirname(path))
            return cast(int, self._system.info(path)["size"])
        return None

    def sizes(self, folder: str) -> dict[str, int | None]:
        """As the store lists it now."""
        with _told_of(folder, "read"), suppress(FileNotFoundError):
            self._system.invalidate_cache(folder)
            entries = self._system.ls(folder, detail=True)
            return {
                posixpath.basename(entry["name"]): (
                    entry["size"] if entry["type"] == "file" else None
                )
                for entry in entries
                # Some stores keep an object for a folder, and list it as its own content.
                if entry["name"].rstrip("/") != folder
            }
        return {}

    def marks(self, folder: str) -> dict[str, Mark]:
        """What the store's listing tells of each."""
        with _told_of(folder, "read"), suppress(FileNotFoundError):
            self._system.invalidate_cache(folder)
            return {
                posixpath.basename(entry["name"]): (
                    entry["size"],
                    *(str(entry.get(key)) for key in _MARKS),
                )
                for entry in self._system.ls(folder, detail=True)
                if entry["type"] == "file"
            }
        return {}

    def remove(self, path: str) -> None:
        """Deletes it."""
        self._check_lease()
        with _told_of(path, "removed"), suppress(FileNotFoundError):
            self._system.rm_file(path)

    def remove_folder(self, path: str) -> None:
        """Removes it where the store has such a thing."""
        self._check_lease()
        with _told_of(path, "removed"), suppress(FileNotFoundError):
            self._system.invalidate_cache(path)
            if self._system.isdir(path):
                self._system.rmdir(path)

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """By a file that its holder renews; whoever has lost it writes no more."""
        with leased(self._system, path) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _make_folders(self, folder: str) -> None:
        """Not by `makedirs`, which makes a bucket for whoever misspells one."""
        missing = []
        while folder and not self._system.isdir(folder):
            missing.append(folder)
            folder = posixpath.dirname(folder)
        for folder in reversed(missing):
            self._system.mkdir(folder, create_parents=False)


def _told_of(path: str, doing: str) -> AbstractContextManager[None]:
    """What a store's library raises is of whatever class."""
    return told_of(path, doing, Exception)
