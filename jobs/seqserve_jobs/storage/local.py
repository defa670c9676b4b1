"""Files of this machine: written aside, flushed to disk, renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO

from seqserve_jobs.storage.files import Mark, told_of, unfinished
from seqserve_jobs.storage.local_lock import locked


class LocalFiles:
    """By the operating system."""

    def put(self, path: str, content: bytes, aside: str | None = None) -> None:
        """Writes aside, flushes, renames."""
        with self.writing(path, aside) as file:
            file.write(content)

    @contextmanager
    def writing(self, path: str, aside: str | None = None) -> Iterator[BinaryIO]:
        """Writes aside; at the end flushes and renames, or removes."""
        written = unfinished(path, aside)
        with told_of(path, "written"):
            for place in (written, path):
                os.makedirs(os.path.dirname(place), exist_ok=True)
            try:
                with open(written, "xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(written, path)
                _to_disk(os.path.dirname(path))
            except BaseException:
                with suppress(OSError):
                    os.unlink(written)
                raise

    def read(self, path: str) -> bytes | None:
        """All of it."""
        with told_of(path, "read"), suppress(FileNotFoundError), open(path, "rb") as file:
            return file.read()
        return None

    def sha256(self, path: str) -> str | None:
        """Of what it reads, a little at a time."""
        with told_of(path, "read"), suppress(FileNotFoundError), open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return None

    def size(self, path: str) -> int | None:
        """As the operating system has it."""
        with told_of(path, "read"), suppress(FileNotFoundError, NotADirectoryError):
            return os.stat(path).st_size
        return None

    def sizes(self, folder: str) -> dict[str, int | None]:
        """Of plain files; what is neither file nor folder counts as a folder."""
        with told_of(folder, "read"), suppress(FileNotFoundError), os.scandir(folder) as entries:
            return {
                entry.name: entry.stat().st_size if entry.is_file() else None for entry in entries
            }
        return {}

    def marks(self, folder: str) -> dict[str, Mark]:
        """When each was written, and how large it is."""
        with told_of(folder, "read"), suppress(FileNotFoundError), os.scandir(folder) as entries:
            return {
                entry.name: (found.st_size, found.st_mtime_ns, found.st_ino)
                for entry in entries
                if entry.is_file() and (found := entry.stat())
            }
        return {}

    def remove(self, path: str) -> None:
        """Unlinks it."""
        with told_of(path, "removed"), suppress(FileNotFoundError):
            os.unlink(path)

    def remove_folder(self, path: str) -> None:
        """Removes it."""
        with told_of(path, "removed"), suppress(FileNotFoundError):
            os.rmdir(path)

    def lock(self, path: str) -> AbstractContextManager[None]:
        """By the kernel, which lets go of it when its holder dies."""
        return locked(path)


def _to_disk(folder: str) -> None:
    """A rename may reach the disk later than what relies on it; a power cut would show that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
