"""How many requests may be under way at a service: as many as it takes, found out by trying.

Additive increase, multiplicative decrease (Chiu and Jain 1989; RFC 5681 for TCP): with every
window of answers one request more, after a refusal half as many. Who is refused waits as long as
the service asks for. No threads, no clock.
"""

from __future__ import annotations

import math

FIRST = 4
"""Requests under way in the beginning, before anything is known of the service."""


class Window:
    """The requests under way, and how many there may be.

    Args:
        most: Never more than so many.
    """

    def __init__(self, most: int) -> None:
        self.under_way = 0
        """Those that have left and not come back."""
        self._most = most
        self._size = float(min(FIRST, most))
        self._opens = -math.inf
        self._narrowed = -math.inf

    @property
    def size(self) -> int:
        """How many may be under way now."""
        return int(self._size)

    def wait_s(self, now: float) -> float:
        """Seconds until the next may leave; infinite where another has to come back first."""
        if self.under_way >= self.size:
            return math.inf
        return max(0.0, self._opens - now)

    def leave(self) -> None:
        """A request leaves."""
        self.under_way += 1

    def answered(self) -> None:
        """One is back with its answers: the service may take more."""
        self.under_way -= 1
        self._size = min(self._size + 1 / self._size, self._most)

    def refused(self, left: float, now: float, wait_s: float) -> None:
        """One is back without: none leaves for a while, and fewer from then on.

        Args:
            left: When it did.
            now: The time, in seconds.
            wait_s: How long nobody is to come.
        """
        self.under_way -= 1
        self._opens = max(self._opens, now + wait_s)
        if left >= self._narrowed:  # those that left before are refused by the same full queue
            self._size = max(1.0, self._size / 2)
            self._narrowed = now

    def lost(self) -> None:
        """One is back, and says nothing of how much the service takes."""
        self.under_way -= 1
