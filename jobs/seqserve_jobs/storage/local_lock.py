"""One job at a time, by the kernel: a lock cannot outlive the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from seqserve_jobs.storage.files import told_of
from seqserve_jobs.storage.holder import Holder, in_use

_ATTEMPTS = 100
"""As holders come and go; a place that takes no files looks the same."""


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Holds the lock; the file that shows it is gone afterwards.

    Raises:
        OutputInUse: another process holds it, or another thread.
        OutputError: the file cannot be written.
    """
    with told_of(path, "written"):
        descriptor = _take(path)
    try:
        yield
    finally:
        # First unlinked, then let go: whoever opened it meanwhile sees that it is no more the file.
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _take(path: str) -> int:
    for left in reversed(range(_ATTEMPTS)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the last holder has just removed the folder
            if not left:
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, Holder.here().to_bytes())
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            holder = Holder.from_bytes(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise in_use(path, holder) from None
        except BaseException:
            os.close(descriptor)
            raise
    raise OSError(errno.EAGAIN, "other jobs come and go there", path)


def _is_at(path: str, descriptor: int) -> bool:
    """Whether the file is still the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
