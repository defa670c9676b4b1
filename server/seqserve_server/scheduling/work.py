"""What the engine asks of a scheduler: rows of one model to advance, by when."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve.graph import Outputs, State
from seqserve.ragged import RaggedBatch
from seqserve_server.models.runner import Runner

MAX_ROWS = 256
"""Rows that work may have: a scheduler has room for as many of every model."""
KEPT_FROM_BULK = 0.25
"""Of the room in the queue and in play, what bulk work leaves free."""


class ServiceClass(IntEnum):
    """How urgent work is."""

    INTERACTIVE = 0
    """Somebody waits."""
    BULK = 1
    """Takes only what interactive work leaves."""


@dataclass
class Timeline:
    """When rows ran, by the lanes' clock: noted for whoever wants to know."""

    began_s: float = math.inf
    """When the first turn of any was prepared."""
    ended_s: float = -math.inf
    """When the last turn of any was over."""

    @property
    def ran(self) -> bool:
        """Whether any did."""
        return self.began_s < math.inf

    def note(self, began_s: float, ended_s: float) -> None:
        """Takes note of a turn."""
        self.began_s = min(self.began_s, began_s)
        self.ended_s = max(self.ended_s, ended_s)


@dataclass(frozen=True, eq=False)
class Work:
    """Rows of one model to advance."""

    runner: Runner
    """Runs the model."""
    rows: RaggedBatch
    """At most MAX_ROWS. The steps to advance each row by."""
    state: State | None
    """The rows' state before them; None where every row is new."""
    deadline: float
    """When nobody waits for it any more, on the monotonic clock; infinite without one."""
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    """Whether it goes before other work or behind it."""
    timeline: Timeline | None = None
    """Told when its rows run, where somebody wants to know."""


Outcome = Outputs | Exception
"""What becomes of work: DeadlineSpent where its deadline passes first, Draining where the scheduler
is closed first, and what the runner raises."""

Leave = Callable[[], None]
"""What a caller calls who waits no longer; again, or too late, is harmless."""


def stay() -> None:
    """Leaves nothing: it is over already."""


class Scheduler(Protocol):
    """Runs work, of any thread."""

    def start(self) -> None:
        """Begins to run."""
        ...

    def check(self, deadline: float) -> None:
        """Says before work is known whether any could be answered in time.

        Args:
            deadline: When nobody waits for it any more, on the monotonic clock.

        Raises:
            QueueFull: none could.
        """
        ...

    def submit(self, work: Work, tell: Callable[[Outcome], None]) -> Leave:
        """Takes work in.

        Args:
            work: What to run.
            tell: Told once what became of it, on another thread, unless its caller has left; may
                still be told of work that is left at that moment. It must not raise.

        Returns:
            How to leave: the work is dropped.

        Raises:
            As `submit_all`.
        """
        ...

    def submit_all(
        self, works: Sequence[Work], tells: Sequence[Callable[[Outcome], None]]
    ) -> Leave:
        """Takes in works that came together, all of them or none.

        Args:
            works: What to run: of one model, one class and one deadline.
            tells: Each is told of its own work, as by `submit`.

        Returns:
            How to leave: all that is left of them is dropped.

        Raises:
            QueueFull: as much waits as may, or it would wait past its deadline.
            DeadlineSpent: the deadline has passed already.
            Draining: the scheduler is closed.
        """
        ...

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Waits until nothing is under way; whether that came about."""
        ...

    def close(self) -> None:
        """Gives up what is not answered yet, and waits until nobody is told any more."""
        ...


def parts(batch: RaggedBatch, max_steps: int) -> list[RaggedBatch]:
    """Cuts a request, in its order, into parts that can come into play.

    Args:
        batch: The request's sequences.
        max_steps: As for `cut`.
    """
    if len(batch) <= MAX_ROWS and batch.steps <= max_steps:  # as nearly every request is
        return [batch]
    return [batch.slice(first, stop) for first, stop in cut(batch.offsets, max_steps)]


def cut(offsets: NDArray[np.int64], max_steps: int) -> Iterator[tuple[int, int]]:
    """Where a request's parts begin and end.

    Args:
        offsets: (sequences + 1,), where each begins and the last one ends, in steps.
        max_steps: Steps of a part, of which each has at most MAX_ROWS rows; a longer sequence is a
            part of its own.
    """
    count, first = len(offsets) - 1, 0
    while first < count:
        fitting = int(np.searchsorted(offsets, offsets[first] + max_steps, "right")) - 1
        stop = max(first + 1, min(fitting, first + MAX_ROWS, count))
        yield first, stop
        first = stop
