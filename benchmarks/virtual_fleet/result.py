"""What became of calls to a fleet, and what it took."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.stats import Stats


class Ending(Enum):
    """What a caller was told."""

    ANSWERED = auto()
    REFUSED = auto()
    """RESOURCE_EXHAUSTED: too much was under way, or the answer would have come too late."""
    EXPIRED = auto()
    """DEADLINE_EXCEEDED."""
    UNAVAILABLE = auto()
    """No replica could be had, as often as it was tried."""


ENDINGS = tuple(Ending)


@dataclass(frozen=True, eq=False)
class FleetResult:
    """What became of calls, in the order in which they were made."""

    made_s: NDArray[np.float64]
    """(calls,)"""
    ended_s: NDArray[np.float64]
    """(calls,), when its caller knew."""
    endings: NDArray[np.int8]
    attempts: NDArray[np.int64]
    """(calls,), how often each was tried."""
    sizes: NDArray[np.int64]
    """(calls,), sequences of each."""
    by_replica: tuple[Stats, ...]
    """The counters of each replica's lanes."""
    seconds: float
    """Until all had ended."""
    granted_core_s: float
    """Of all replicas, from when each was wished for until it ended."""
    used_core_s: float

    def ended(self, ending: Ending) -> NDArray[np.bool_]:
        """(calls,), which ended so."""
        ended: NDArray[np.bool_] = self.endings == ENDINGS.index(ending)
        return ended

    def share(self, ending: Ending) -> float:
        """Of the calls, those that ended so."""
        return float(self.ended(ending).mean()) if len(self.endings) else math.nan

    def latency_s(self, quantile: float, since_s: float = 0.0) -> float:
        """A quantile of the latencies of calls made since then; infinite without an answer."""
        made = self.made_s >= since_s
        latencies = np.where(self.ended(Ending.ANSWERED), self.ended_s - self.made_s, np.inf)[made]
        if not len(latencies):
            return math.nan
        return float(np.quantile(latencies, quantile, method="higher"))

    @property
    def offered_per_s(self) -> float:
        """Sequences a second that callers asked for."""
        return float(self.sizes.sum() / self.made_s[-1]) if len(self.made_s) else math.nan

    @property
    def goodput(self) -> float:
        """Of the sequences, those answered in time."""
        answered = self.sizes[self.ended(Ending.ANSWERED)].sum()
        return float(answered / self.sizes.sum()) if len(self.sizes) else math.nan

    @property
    def useful_fraction(self) -> float:
        """Steps asked for ÷ rows × steps computed, over all replicas."""
        return sum(self.by_replica, Stats()).useful_fraction

    def core_s_per_million(self, core_s: float) -> float:
        """Core-seconds for a million sequences answered."""
        return core_s * 1e6 / int(self.sizes[self.ended(Ending.ANSWERED)].sum())

    def worst_goodput(self, window_s: float = 1.0) -> float:
        """The least goodput of a window of this length, by when calls were made."""
        windows = (self.made_s // window_s).astype(np.int64)
        asked = np.bincount(windows, self.sizes)
        answered = np.bincount(windows, self.sizes * self.ended(Ending.ANSWERED))
        there = asked > 0
        return float((answered[there] / asked[there]).min())
