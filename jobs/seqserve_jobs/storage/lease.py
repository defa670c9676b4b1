"""One job at a time, where there is no kernel to ask: a file that its holder renews.

Whoever comes second watches the file: as long as it changes its holder lives, and where it stays as
it is its holder is dead. So no clock is compared with another. Of several that take over from a
dead holder the last one to write has it: each looks once more after a while. A holder that was
only halted finds that out before it writes anything else, and writes no more.

What is left: a write that was under way when its holder was halted may arrive long afterwards, for
no store is told who may write; and where a store cannot create only what is not there (S3, GCS and
Azure can), two that come at once may both get through until one of them renews.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fsspec import AbstractFileSystem

from seqserve_jobs.errors import OutputInUse
from seqserve_jobs.storage.files import told_of
from seqserve_jobs.storage.holder import Holder, in_use

RENEWED_EVERY_S = 10.0
GIVEN_UP_AFTER = 6
"""Renewals that a holder may miss before it counts as dead."""


@contextmanager
def leased(
    system: AbstractFileSystem, path: str, interval_s: float = RENEWED_EVERY_S
) -> Iterator[Lease]:
    """Holds the lease; its file is gone afterwards.

    Args:
        system: Where.
        path: The file.
        interval_s: Between two renewals.

    Raises:
        OutputInUse: another job holds it, and lives.
        OutputError: the file cannot be written.
    """
    lease = Lease(system, path, interval_s)
    with told_of(path, "written", Exception):
        lease.take()
    ended = threading.Event()
    renewing = threading.Thread(target=lease.renew, args=(ended,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        with suppress(Exception):  # an error of the job itself says more
            lease.let_go()


class Lease:
    """What `leased` holds.

    Args:
        system: Where.
        path: The file.
        interval_s: Between two renewals.
    """

    def __init__(self, system: AbstractFileSystem, path: str, interval_s: float) -> None:
        self._system = system
        self._path = path
        self._interval_s = interval_s
        self._me = Holder.here()
        self._renewals = 0
        self._renewed = _now()
        self._lost: OutputInUse | None = None
        self._lock = threading.Lock()  # guards all of this, and the order of renewals

    def check(self) -> None:
        """To be called before something is written: that it is held still.

        Raises:
            OutputInUse: another job has taken over.
            OutputError: it was not renewed for long, and the store does not tell.
        """
        # By then whoever watches may be about to take over.
        if _now() - self._renewed > (GIVEN_UP_AFTER - 1) * self._interval_s:
            with told_of(self._path, "renewed", Exception):
                self._renew()
        if self._lost is not None:
            raise self._lost

    def take(self) -> None:
        """Creates the file, or waits until its holder has shown that it lives, or has not."""
        content = self._me.to_bytes()
        self._renewed = _now()
        try:
            self._system.pipe_file(self._path, content, mode="create")
        except FileExistsError:
            seen = self._seen()
            pause = threading.Event()
            for _ in range(GIVEN_UP_AFTER):
                pause.wait(self._interval_s)
                if (now := self._seen()) is None:
                    self.take()
                    return
                if now != seen:
                    raise in_use(self._path, Holder.from_bytes(now)) from None
            self._renewed = _now()
            self._system.pipe_file(self._path, content)
            pause.wait(self._interval_s)  # others who have watched as long have written by then
            if (now := self._seen()) != content:
                raise in_use(self._path, Holder.from_bytes(now)) from None

    def renew(self, ended: threading.Event) -> None:
        """Renews it until it is over, or another's."""
        while self._lost is None and not ended.wait(self._interval_s):
            # One that does not come through is made up for by the next.
            with suppress(Exception):
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            begun = _now()
            seen = Holder.from_bytes(self._seen())
            if seen != self._me:
                self._lost = in_use(self._path, seen)
                return
            self._renewals += 1
            self._system.pipe_file(self._path, self._me.to_bytes(self._renewals))
            self._renewed = begun

    def let_go(self) -> None:
        """Removes its file."""
        if Holder.from_bytes(self._seen()) == self._me:
            self._system.rm_file(self._path)

    def _seen(self) -> bytes | None:
        try:
            self._system.invalidate_cache()
            content: bytes = self._system.cat_file(self._path)
        except FileNotFoundError:
            return None
        return content


def _now() -> float:
    """Goes on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
