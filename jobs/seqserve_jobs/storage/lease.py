"""One job at a time, where there is no kernel to ask: a file that its holder renews.

Whoever comes second watches the file: as long as it changes its holder lives, and where it stays as
it is its holder is dead. So no clock is compared with another. On stores that can create only what
is not there (S3, GCS, Azure) of two that come at once one is refused; elsewhere both may get
through before either sees the other. Then they write the same bytes, for only jobs that are alike
go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fsspec import AbstractFileSystem

from seqserve_jobs.storage.files import told_of
from seqserve_jobs.storage.holder import Holder, in_use

RENEWED_EVERY_S = 10.0
GIVEN_UP_AFTER = 6
"""Renewals that a holder may miss before it counts as dead."""


@contextmanager
def leased(
    system: AbstractFileSystem, path: str, interval_s: float = RENEWED_EVERY_S
) -> Iterator[None]:
    """Holds the lease; its file is gone afterwards.

    Args:
        system: Where.
        path: The file.
        interval_s: Between two renewals.

    Raises:
        OutputInUse: another job holds it, and lives.
        OutputError: the file cannot be written.
    """
    lease = _Lease(system, path, interval_s)
    with told_of(path, "written", Exception):
        lease.take()
    ended = threading.Event()
    renewing = threading.Thread(target=lease.renew, args=(ended,), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(Exception):  # an error of the job itself says more
            lease.let_go()


class _Lease:
    def __init__(self, system: AbstractFileSystem, path: str, interval_s: float) -> None:
        self._system = system
        self._path = path
        self._interval_s = interval_s
        self._me = Holder.here()
        self._renewals = 0

    def take(self) -> None:
        """Creates the file, or waits until its holder has shown that it lives, or has not."""
        content = self._me.to_bytes()
        try:
            self._system.pipe_file(self._path, content, mode="create")
        except FileExistsError:
            seen = self._seen()
            pause = threading.Event()
            for _ in range(GIVEN_UP_AFTER):
                pause.wait(self._interval_s)
                if (now := self._seen()) is None:
                    return self.take()
                if now != seen:
                    raise in_use(self._path, Holder.from_bytes(now)) from None
            self._system.pipe_file(self._path, content)

    def renew(self, ended: threading.Event) -> None:
        while not ended.wait(self._interval_s):
            # One that does not come through is made up for by the next, or another job goes on.
            with suppress(Exception):
                if Holder.from_bytes(self._seen()) != self._me:
                    return
                self._renewals += 1
                self._system.pipe_file(self._path, self._me.to_bytes(self._renewals))

    def let_go(self) -> None:
        if Holder.from_bytes(self._seen()) == self._me:
            self._system.rm_file(self._path)

    def _seen(self) -> bytes | None:
        try:
            self._system.invalidate_cache()
            content: bytes = self._system.cat_file(self._path)
        except FileNotFoundError:
            return None
        return content
