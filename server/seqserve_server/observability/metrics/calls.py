"""Calls that ended, counted on whichever thread ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seqserve_server.observability.histogram import Histogram

OK = "OK"
_MOST_PENDING = 4096
"""Latencies of a kind that wait to be added up."""


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


class _Ended:
    """Calls of one kind."""

    __slots__ = ("latencies", "pending")

    def __init__(self) -> None:
        self.latencies = Histogram()
        self.pending: list[float] = []
        """Not yet in the histogram."""


class Calls:
    """Calls that ended.

    Args:
        known: Whether the repository has a model of this name. Any thread may ask.
    """

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known
        self._ended: dict[Kind, _Ended] = {}
        self._by_path: dict[tuple[str, str, str, str], _Ended] = {}
        self._lock = threading.Lock()  # guards the histograms, and the making of what is new

    def ended(self, path: str, model: str, code: str, reason: str, seconds: float) -> None:
        """Notes a call. No lock is taken: lanes call this, once a call.

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
        pending = ended.pending
        pending.append(seconds)
        if len(pending) >= _MOST_PENDING:
            self._add_up(ended)

    def by_kind(self) -> dict[Kind, Histogram]:
        """Seconds that calls took; of each kind that there was."""
        for ended in list(self._ended.values()):
            self._add_up(ended)
        with self._lock:
            return {kind: ended.latencies.copy() for kind, ended in self._ended.items()}

    def _new(self, path: str, model: str, code: str, reason: str) -> _Ended:
        known = not model or self._known(model)
        kind = Kind(model if known else "", path.rpartition("/")[2], code, reason)
        with self._lock:
            ended = self._ended.setdefault(kind, _Ended())
            if known:  # or callers could fill the memory with names
                self._by_path[path, model, code, reason] = ended
        return ended

    def _add_up(self, ended: _Ended) -> None:
        with self._lock:
            taken = ended.pending[:]
            del ended.pending[: len(taken)]  # others go on appending behind them
            ended.latencies.observe_all(np.array(taken))
