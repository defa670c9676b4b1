"""The work that waits for a lane: which comes next, and how much may wait. No threads, no clock.

First come, first served. This is the policy that decides the order; a better one takes its
place here, and the scheduler around it stays.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from seqserve_server.errors import QueueFull

MIN_RETRY_S = 0.01
MAX_RETRY_S = 30.0

_NEWEST_RUN_WEIGHT = 0.1


class Waiting(Protocol):
    """What is known of waiting work; equal only to itself."""

    @property
    def steps(self) -> int:
        """Steps of all its sequences."""
        ...

    @property
    def deadline(self) -> float:
        """When it is no longer wanted, on the clock of `take`."""
        ...


W = TypeVar("W", bound=Waiting)


class Backlog(Generic[W]):
    """The work that waits for a lane.

    Args:
        max_steps: How many steps may wait, of all work together.
        lanes: How many lanes take from it.
    """

    def __init__(self, max_steps: int, lanes: int) -> None:
        self._max_steps = max_steps
        self._lanes = lanes
        self._waiting: OrderedDict[W, None] = OrderedDict()
        self._steps = 0
        self._seconds_per_step = 0.0

    @property
    def steps(self) -> int:
        """Steps that wait."""
        return self._steps

    def add(self, work: W) -> None:
        """Takes work in, behind what waits.

        Raises:
            QueueFull: its steps do not fit; nothing has changed.
        """
        if self._steps + work.steps > self._max_steps:
            raise QueueFull(
                f"{self._steps} steps wait and {work.steps} more do not fit into a queue of "
                f"{self._max_steps}",
                retry_after_s=self._retry_after_s(),
            )
        self._waiting[work] = None
        self._steps += work.steps

    def drop(self, work: W) -> None:
        """Lets go of work that is no longer wanted; nothing happens where it does not wait."""
        if work in self._waiting:
            del self._waiting[work]
            self._steps -= work.steps

    def take(self, now: float) -> tuple[W | None, list[W]]:
        """The work to run now, if any, and the work whose deadline passed before its turn."""
        expired: list[W] = []
        while self._waiting:
            work, _ = self._waiting.popitem(last=False)
            self._steps -= work.steps
            if work.deadline > now:
                return work, expired
            expired.append(work)
        return None, expired

    def clear(self) -> list[W]:
        """Everything that waits, which then waits no more."""
        left = list(self._waiting)
        self._waiting.clear()
        self._steps = 0
        return left

    def ran(self, steps: int, seconds: float) -> None:
        """Notes how long a lane took for work of so many steps."""
        weight = _NEWEST_RUN_WEIGHT if self._seconds_per_step else 1.0
        self._seconds_per_step += weight * (seconds / steps - self._seconds_per_step)

    def _retry_after_s(self) -> float:
        """When half of what waits is likely to be done: then there is room again."""
        half = self._steps / 2 * self._seconds_per_step / self._lanes
        return min(max(half, MIN_RETRY_S), MAX_RETRY_S)
