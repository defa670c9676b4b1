"""Ctrl-C and SIGTERM: the first lets a job end what is under way, the second the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SHOW_CURSOR = "\x1b[?25h"
"""A bar that is drawn hides it."""
_STDERR = 2


class Interruption:
    """Whether, and by what, the process was asked to end.

    Args:
        note: What standard error says then, in a line.
    """

    def __init__(self, note: str) -> None:
        self.asked = threading.Event()
        """Set by the first signal."""
        self.under_way = False
        """Whether there is anything to end first; until then, the first signal ends the process."""
        self.exit_code = 0
        """What a shell says of a process that the signal ended."""
        self._note = note

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handles a signal; one handler for both, on the main thread."""
        if self.asked.is_set():
            _say(_SHOW_CURSOR if os.isatty(_STDERR) else "")
            # Locks go with the process, and what is half written was never visible.
            os._exit(128 + number)
        self.exit_code = 128 + number
        if not self.under_way:
            raise SystemExit(self.exit_code)
        self.asked.set()
        _say(f"\n{self._note}\n" if os.isatty(_STDERR) else f"{self._note}\n")


def _say(text: str) -> None:
    """Past Python's own buffer, which whoever was interrupted may be writing to."""
    with suppress(OSError):
        os.write(_STDERR, text.encode())


@contextmanager
def noticed(note: str) -> Iterator[Interruption]:
    """Notices SIGINT and SIGTERM while the context lasts, on the main thread alone.

    Args:
        note: What standard error says at the first of them.
    """
    interruption = Interruption(note)
    before = {
        number: signal.signal(number, interruption.handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
