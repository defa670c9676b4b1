"""How often values fell where, between bounds that are fixed beforehand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

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

_FEW = 8
"""Values for fewer of which numpy costs more than it saves."""


class Histogram:
    """Counts of values by the first of the bounds that they are not above.

    Args:
        bounds: Rising; what is above the last is counted behind it.
    """

    __slots__ = ("_bounds", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self._bounds = np.array(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Counts many."""
        if len(values) < _FEW:
            for value in values.tolist():
                self.observe(value)
            return
        counts = self.counts
        binned = np.bincount(self._bounds.searchsorted(values))
        places = binned.nonzero()[0]
        for place, more in zip(places.tolist(), binned[places].tolist(), strict=True):
            counts[place] += more
        self.total += float(values.sum())

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, quantile: float) -> float:
        """The bound that so large a part of the values is not above; 0 where there were none."""
        cumulative = np.cumsum(self.counts)
        if not cumulative[-1]:
            return 0.0
        place = int(np.searchsorted(cumulative, quantile * cumulative[-1]))
        return self.bounds[min(place, len(self.bounds) - 1)]

    def not_above(self, bounds: Sequence[float]) -> list[int]:
        """How many values were not above each of `bounds`, which are among its own."""
        cumulative = np.cumsum(self.counts).tolist()
        return [cumulative[self.bounds.index(bound)] for bound in bounds]

    def copy(self) -> Histogram:
        """As it is now."""
        return self + Histogram(self.bounds)

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        both = Histogram(self.bounds)
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both

    def __sub__(self, before: Histogram) -> Histogram:
        """What was added after `before`."""
        since = Histogram(self.bounds)
        since.counts = [a - b for a, b in zip(self.counts, before.counts, strict=True)]
        since.total = self.total - before.total
        return since
