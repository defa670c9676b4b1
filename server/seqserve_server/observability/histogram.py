"""How often values fell where, between bounds that are fixed beforehand."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_R20 = (
    *(1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.24, 2.5, 2.8),
    *(3.15, 3.55, 4.0, 4.5, 5.0, 5.6, 6.3, 7.1, 8.0, 9.0),
)
"""Preferred numbers, 20 a decade (ISO 3): 1, 2.5 and 5 are among them."""

SECONDS = (*(float(f"{each}e{power}") for power in range(-5, 2) for each in _R20), 100.0)
"""10 µs to 100 s."""

POWERS_OF_TWO = tuple(float(2**power) for power in range(17))
"""1 to 65,536."""

_MOST_PENDING = 1024
"""Values that wait to be counted: together they cost a twentieth of what they cost alone."""


class Histogram:
    """Counts of values by the first of the bounds that they are not above.

    Values may come from any thread.

    Args:
        bounds: Rising; what is above the last is counted behind it.
    """

    __slots__ = ("_bounds", "_counts", "_lock", "_pending", "_total", "bounds")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._pending: list[float] = []
        self._lock = threading.Lock()  # guards the counts and the total

    def observe(self, value: float) -> None:
        """Counts one."""
        self._pending.append(value)
        if len(self._pending) >= _MOST_PENDING:
            self._count()

    def observe_all(self, values: Iterable[float]) -> None:
        """Counts many."""
        self._pending.extend(values)
        if len(self._pending) >= _MOST_PENDING:
            self._count()

    @property
    def counts(self) -> list[int]:
        """How many there were up to each bound and above the one before, and above the last."""
        counts: list[int] = self._count()[0].tolist()
        return counts

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self._count()[1]

    @property
    def count(self) -> int:
        """How many there were."""
        return int(self._count()[0].sum())

    def quantile(self, quantile: float) -> float:
        """The bound that so large a part of the values is not above; 0 where there were none."""
        cumulative = self._count()[0].cumsum()
        if not cumulative[-1]:
            return 0.0
        place = int(np.searchsorted(cumulative, quantile * cumulative[-1]))
        return self.bounds[min(place, len(self.bounds) - 1)]

    def not_above(self, bounds: Sequence[float]) -> list[int]:
        """How many values were not above each of `bounds`, which are among its own."""
        cumulative = self._count()[0].cumsum().tolist()
        return [cumulative[self.bounds.index(bound)] for bound in bounds]

    def copy(self) -> Histogram:
        """As it is now."""
        return self._of(*self._count())

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        (counts, total), (more, more_total) = self._count(), other._count()
        return self._of(counts + more, total + more_total)

    def __sub__(self, before: Histogram) -> Histogram:
        """What was added after `before`."""
        (counts, total), (less, less_total) = self._count(), before._count()
        return self._of(counts - less, total - less_total)

    def _of(self, counts: NDArray[np.int64], total: float) -> Histogram:
        other = Histogram(self.bounds)
        other._counts, other._total = counts, total
        return other

    def _count(self) -> tuple[NDArray[np.int64], float]:
        """The counts and the total, of all values so far."""
        with self._lock:
            if pending := self._pending[:]:
                del self._pending[: len(pending)]  # others go on appending behind them
                values = np.array(pending)
                binned = np.bincount(self._bounds.searchsorted(values), minlength=len(self._counts))
                self._counts = self._counts + binned  # whoever was given the old ones keeps them
                self._total += float(values.sum())
            return self._counts, self._total
