"""Which work runs next, and on which lane: threads around the backlog's policy.

A lane is a thread that runs one batch at a time; onnxruntime lets go of the interpreter while
it computes. The event loop and the lanes meet at the backlog, under one lock; what a lane has
done crosses back to the loop in one call. Futures are touched on the loop alone, so that each
settles exactly once, whoever comes first: the lane, the deadline or the caller who leaves.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from seqserve.graph import Outputs
from seqserve_server.errors import DeadlineSpent, Draining
from seqserve_server.scheduling.backlog import Backlog
from seqserve_server.scheduling.work import Work

_log = logging.getLogger(__name__)

_JOIN_S = 10.0


@dataclass(frozen=True, eq=False)
class _Ticket:
    """Work that waits, and what its caller waits for."""

    work: Work
    future: asyncio.Future[Outputs]
    steps: int
    deadline: float


_Settled = list[tuple[_Ticket, Outputs | Exception]]


class LaneScheduler:
    """Runs work on lanes, each piece as a batch of its own.

    Args:
        lanes: How many batches run at the same time.
        max_queue_steps: How many steps may wait for a lane.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self, *, lanes: int, max_queue_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backlog: Backlog[_Ticket] = Backlog(max_queue_steps, lanes)
        self._clock = clock
        self._changed = threading.Condition()  # guards the backlog and `_closed`
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes = [
            threading.Thread(target=self._run_lane, name=f"seqserve-lane-{index}", daemon=True)
            for index in range(lanes)
        ]

    def start(self) -> None:
        """Starts the lanes; to be called on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        for lane in self._lanes:
            lane.start()

    def submit(self, work: Work) -> asyncio.Future[Outputs]:
        """The outputs that the work will have; cancel it and the work is dropped.

        The future raises DeadlineSpent where the deadline passes first, Draining where the
        scheduler is closed first, and what the runner raises.

        Raises:
            QueueFull: as much waits as may.
            Draining: the scheduler is closed.
        """
        assert self._loop is not None, "start() comes first"
        ticket = _Ticket(work, self._loop.create_future(), work.rows.steps, work.deadline)
        with self._changed:
            if self._closed:
                raise Draining
            self._backlog.add(ticket)
            self._changed.notify()
        ticket.future.add_done_callback(lambda future: self._left(ticket, future))
        return ticket.future

    async def close(self) -> None:
        """Lets the lanes finish what they run, and gives up what waits."""
        with self._changed:
            self._closed = True
            left = self._backlog.clear()
            self._changed.notify_all()
        self._settle([(ticket, Draining()) for ticket in left])
        for lane in self._lanes:
            if lane.is_alive():
                await asyncio.to_thread(lane.join, _JOIN_S)
            if lane.is_alive():
                _log.warning("%s still runs after %g s; it is left behind", lane.name, _JOIN_S)

    def _left(self, ticket: _Ticket, future: asyncio.Future[Outputs]) -> None:
        """Makes room at once where the caller has gone."""
        if future.cancelled():
            with self._changed:
                self._backlog.drop(ticket)

    def _run_lane(self) -> None:
        while (ticket := self._next()) is not None:
            self._cross([(ticket, self._run(ticket))])
            del ticket  # or a lane that waits would keep its last batch alive

    def _next(self) -> _Ticket | None:
        """Waits for the next work; None once the scheduler is closed."""
        with self._changed:
            while True:
                ticket, expired = self._backlog.take(self._clock())
                if expired:
                    self._cross([(late, DeadlineSpent()) for late in expired])
                if ticket is None:
                    if self._closed:
                        return None
                    self._changed.wait()
                elif not ticket.future.cancelled():  # its caller may have left this moment
                    return ticket

    def _run(self, ticket: _Ticket) -> Outputs | Exception:
        work, begin = ticket.work, self._clock()
        try:
            outputs = work.runner.advance(work.rows, work.state)
        except Exception as error:  # whatever it is, its caller is told, and the lane goes on
            return error
        with self._changed:
            self._backlog.ran(ticket.steps, self._clock() - begin)
        return outputs

    def _cross(self, done: _Settled) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._settle, done)
        except RuntimeError:
            _log.warning("%d results came after the event loop was closed", len(done))

    def _settle(self, done: _Settled) -> None:
        for ticket, outcome in done:
            if ticket.future.done():  # its caller has gone
                continue
            if isinstance(outcome, Exception):
                ticket.future.set_exception(outcome)
            else:
                ticket.future.set_result(outcome)
