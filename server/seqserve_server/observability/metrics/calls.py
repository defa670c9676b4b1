"""Calls that ended, counted on whichever thread ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from seqserve_server.observability.histogram import Histogram

OK = "OK"


class Kind(NamedTuple):
    """What calls are counted by."""

    model: str
    """Empty where the caller named none, or none that the repository has: or callers could make up
    as many as they like."""
    method: str
    """As `Classify`."""
    code: str
    """gRPC's, as `OK`."""
    reason: str = ""
    """The domain's error, as `QueueFull`; empty where there is none."""


class Calls:
    """Calls that ended.

    Args:
        known: Whether the repository has a model of this name. Any thread may ask.
    """

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known
        self._ended: dict[Kind, Histogram] = {}
        self._by_path: dict[tuple[str, str, str, str], Histogram] = {}
        self._lock = threading.Lock()  # guards the making of what is new

    def ended(self, path: str, model: str, code: str, reason: str, seconds: float) -> None:
        """Notes a call. No lock is taken but now and then: lanes call this, once a call.

        Args:
            path: `/package.Service/Method`, or the last part alone.
            model: As its caller named it.
            code: gRPC's name of its status.
            reason: Why it was refused, if it was.
            seconds: From its arrival to its answer.
        """
        ended = self._by_path.get((path, model, code, reason))
        if ended is None:
            ended = self._new(path, model, code, reason)
        ended.observe(seconds)

    def by_kind(self) -> dict[Kind, Histogram]:
        """Seconds that calls took; of each kind that there was."""
        with self._lock:
            return {kind: ended.copy() for kind, ended in self._ended.items()}

    def _new(self, path: str, model: str, code: str, reason: str) -> Histogram:
        known = not model or self._known(model)
        kind = Kind(model if known else "", path.rpartition("/")[2], code, reason)
        with self._lock:
            ended = self._ended.setdefault(kind, Histogram())
            if known:  # or callers could fill the memory with names
                self._by_path[path, model, code, reason] = ended
        return ended
