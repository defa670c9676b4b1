"""What the engine asks of a scheduler: rows of one model to advance, by when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Protocol

from seqserve.graph import Outputs, State
from seqserve.ragged import RaggedBatch
from seqserve_server.runner import Runner


class ServiceClass(IntEnum):
    """How urgent work is."""

    INTERACTIVE = 0
    """Somebody waits."""
    BULK = 1
    """Takes only what interactive work leaves."""


@dataclass(frozen=True, eq=False)
class Work:
    """Rows of one model to advance."""

    runner: Runner
    """Runs the model."""
    rows: RaggedBatch
    """The steps to advance each row by."""
    state: State | None
    """The rows' state before them; None where every row is new."""
    deadline: float
    """When nobody waits for it any more, on the monotonic clock; infinite without one."""
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    """Whether it goes before other work or behind it."""


class Scheduler(Protocol):
    """Runs work; on one event loop."""

    def start(self) -> None:
        """Begins to run; to be called on the event loop that will submit."""
        ...

    def submit(self, work: Work) -> asyncio.Future[Outputs]:
        """The outputs that the work will have; cancel it and the work is dropped.

        The future raises DeadlineSpent where the deadline passes first, Draining where the
        scheduler is closed first, and what the runner raises.

        Raises:
            QueueFull: as much waits as may, or it would wait past its deadline.
            Draining: the scheduler is closed.
        """
        ...

    async def close(self) -> None:
        """Lets what runs finish, and gives up what waits."""
        ...


def parts(batch: RaggedBatch, max_row_steps: int) -> list[RaggedBatch]:
    """Cuts a request, in its order, into parts that one run can hold.

    A run takes rows times the longest of them, so a few long rows among many short ones take
    far more than their steps: this is what bounds the memory that a caller can make us use.

    Args:
        batch: The request's sequences.
        max_row_steps: Rows times longest that a part may have; a single row always is one.
    """
    longest = int(batch.lengths.max())
    if longest * len(batch) <= max_row_steps:  # as nearly every request is
        return [batch]
    borders, longest = [0], 0
    for index, length in enumerate(batch.lengths.tolist()):
        longest = max(longest, length)
        if index > borders[-1] and longest * (index + 1 - borders[-1]) > max_row_steps:
            borders.append(index)
            longest = length
    borders.append(len(batch))
    return [batch.slice(start, stop) for start, stop in pairwise(borders)]
