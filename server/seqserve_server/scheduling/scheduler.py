"""The thin loop: threads that take turns from the batchers, and the way to and from them.

A lane is a thread that runs one turn at a time; onnxruntime lets go of the interpreter while it
computes. The event loop hands work over through one queue and takes no lock for it; what a lane has
settled crosses back to the loop in one call a turn. Futures and admission are touched on the loop
alone, so that each settles exactly once, whoever comes first: the lane, the deadline or the
caller who leaves.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar
from weakref import WeakKeyDictionary

from seqserve.graph import Outputs
from seqserve_server.errors import DeadlineSpent, Draining
from seqserve_server.runner import Runner
from seqserve_server.scheduling.admission import Admission
from seqserve_server.scheduling.batcher import Batcher, Prepared, Settled, WorkTicket, own
from seqserve_server.scheduling.row_store import Workspace
from seqserve_server.scheduling.stats import Stats
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass, Work

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_JOIN_S = 10.0
_OBSERVED_TURNS = 4
"""The costs are learnt from one in so many."""


class _Answer(asyncio.Future[Outputs]):
    """What a caller waits for; tells when the caller leaves, which costs others nothing."""

    def __init__(self, leave: Callable[[_Submission], None], ticket: _Submission) -> None:
        super().__init__()
        self._leave = leave
        self._ticket: _Submission | None = ticket

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self._ticket is not None:
            self._leave(self._ticket)
            self.forget()
        return cancelled

    def forget(self) -> None:
        """Lets go of the ticket, which holds this: its values must not wait for the collector."""
        self._ticket = None


class _Submission(WorkTicket):
    """A ticket and what its caller waits for."""

    __slots__ = ("answer",)

    answer: _Answer


class LaneScheduler:
    """Runs work on lanes by continuous batching.

    Args:
        lanes: How many turns run at the same time.
        max_queue_steps: How many steps may be under way.
        bulk_patience_s: When bulk work counts as interactive.
        clock: Monotonic, in seconds; that of the works' deadlines.
    """

    def __init__(
        self,
        *,
        lanes: int,
        max_queue_steps: int,
        bulk_patience_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = Admission(max_queue_steps, lanes)
        self._bulk_patience_s = bulk_patience_s
        self._clock = clock
        self._inbox: SimpleQueue[_Submission | None] = SimpleQueue()
        self._interactive_waits = False
        self._lock = threading.Lock()  # guards the batchers, the statistics and `_resting`
        self._batchers: WeakKeyDictionary[Runner, Batcher] = WeakKeyDictionary()
        self._stats = Stats()
        self._resting: dict[threading.Thread, float] = {}  # since when
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
        """As `Scheduler.submit`."""
        if self._closed:
            raise Draining
        now = self._clock()
        ticket = _Submission(work, now)
        self._admission.enter(ticket, work.runner.cost, now)
        ticket.answer = _Answer(self._left, ticket)
        self._inbox.put(ticket)
        if work.service_class is ServiceClass.INTERACTIVE:
            self._interactive_waits = True
        return ticket.answer

    def stats(self) -> Stats:
        """What the lanes did so far."""
        with self._lock:
            stats = self._stats.copy()
            stats.idle_s += sum(self._clock() - since for since in self._resting.values())
        return stats

    async def close(self) -> None:
        """Gives up what is not answered yet, and lets the lanes end."""
        self._closed = True
        with self._lock:
            self._take_in()
            left = self._clear()
        self._settle([(ticket, Draining()) for ticket in left])
        self._inbox.put(None)
        end = time.monotonic() + _JOIN_S
        for lane in self._lanes:
            if lane.is_alive():
                await asyncio.to_thread(lane.join, max(0.0, end - time.monotonic()))
            if lane.is_alive():
                _log.warning("%s still runs after %g s; it is left behind", lane.name, _JOIN_S)

    def _left(self, ticket: _Submission) -> None:
        """A caller has gone: its rows are let go at the next border."""
        self._admission.leave(ticket)
        ticket.gone = True
        self._inbox.put(ticket)

    def _run_lane(self) -> None:
        workspace = Workspace()
        prepared: Prepared | None = None
        while True:
            try:
                prepared = self._border(prepared, workspace)
                if prepared is not None:
                    prepared.batcher.run(prepared, self._go_on(prepared))
                elif self._closed:
                    self._inbox.put(None)  # for the other lanes
                    return
                else:
                    self._rest()
            except Exception as error:
                _log.exception(
                    "%s failed; what was under way is given up", threading.current_thread().name
                )
                prepared = None
                with self._lock:
                    self._batchers = WeakKeyDictionary()
                self._call_loop(self._give_up, error)

    def _border(self, ran: Prepared | None, workspace: Workspace) -> Prepared | None:
        """Between two turns: what ran is settled, what came is taken in, what runs next chosen."""
        reached = self._clock()
        with self._lock:
            if ran is not None:
                settled = ran.batcher.finish(ran)
                self._cross(settled)
                now = self._clock()
                self._note(ran, now)
                self._stats.answered([len(ticket.lengths) for ticket, _ in settled])
            else:
                now = reached
            self._take_in()
            prepared = self._prepare(now, workspace)
            if prepared is None:
                self._resting[threading.current_thread()] = self._clock()
            elif self._resting and self._has_more():
                self._inbox.put(None)  # wakes a lane that rests
            self._interactive_waits = False
            # In this order: what is put from now on sets it again.
            if not self._inbox.empty() or self._urges():
                self._interactive_waits = True
            self._stats.around_s += self._clock() - reached
        return prepared

    def _note(self, ran: Prepared, now: float) -> None:
        """What a turn did, for statistics and costs."""
        cost = ran.batcher.pool.cost
        self._stats.ran(ran.batches_run, ran.useful_steps, ran.run_s)
        fresh = ~ran.turn.begun[: ran.rows]
        self._stats.waited(ran.turn.waited_s[: ran.rows][fresh])
        if ran.error is not None or not ran.outputs:
            return
        cost.keep_pace(ran.predicted_s, now - ran.began_s)
        if ran.batcher.turns % _OBSERVED_TURNS == 0:
            cost.observe(ran.spent())

    def _prepare(self, now: float, workspace: Workspace) -> Prepared | None:
        """The next turn of the model whose row is due first."""
        busy = [batcher for batcher in self._batchers.values() if not batcher.pool.idle]
        for batcher in busy:
            if expired := batcher.admit(now):
                self._cross([(ticket, DeadlineSpent()) for ticket in expired])
        if len(busy) > 1:
            busy.sort(key=lambda batcher: batcher.pool.urgency(now))
        for batcher in busy:
            if prepared := batcher.prepare(now, workspace):
                return prepared
        return None

    def _urges(self) -> bool:
        """Whether interactive rows are ready that a lane with a bulk turn should yield to."""
        pools = [batcher.pool for batcher in self._batchers.values()]
        return any(pool.has_bulk for pool in pools) and any(pool.urges for pool in pools)

    def _has_more(self) -> bool:
        return any(batcher.pool.has_ready for batcher in self._batchers.values())

    def _go_on(self, prepared: Prepared) -> Callable[[], bool]:
        """Whether a turn may run its next batch: a bulk one yields to whoever waits."""
        if prepared.turn.service_class is ServiceClass.BULK:
            return lambda: not self._interactive_waits
        return lambda: True

    def _rest(self) -> None:
        """Waits until something comes."""
        ticket = self._inbox.get()
        with self._lock:
            self._stats.idle_s += self._clock() - self._resting.pop(threading.current_thread())
            if ticket is not None:
                self._take(ticket)

    def _take_in(self) -> None:
        """Takes over what came since the last border."""
        with suppress(Empty):  # a lane that rests may be quicker
            while True:
                if (ticket := self._inbox.get_nowait()) is not None:
                    self._take(ticket)

    def _take(self, ticket: _Submission) -> None:
        runner = ticket.work.runner
        batcher = self._batchers.get(runner)
        if batcher is None:
            batcher = Batcher(runner, lanes=len(self._lanes), bulk_patience_s=self._bulk_patience_s)
            self._batchers[runner] = batcher
        if ticket.gone:
            batcher.pool.drop(ticket)
        else:
            batcher.pool.add(ticket)

    def _clear(self) -> list[Ticket]:
        return [t for batcher in self._batchers.values() for t in batcher.pool.clear()]

    def _cross(self, settled: Settled) -> None:
        if settled:
            self._call_loop(self._settle, settled)

    def _call_loop(self, function: Callable[[_T], None], argument: _T) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            _log.warning("what a lane did came after the event loop was closed")

    def _settle(self, settled: Settled) -> None:
        for ticket, outcome in settled:
            assert isinstance(ticket, _Submission)
            self._admission.leave(ticket)
            ticket.answer.forget()
            if ticket.answer.done():  # its caller has gone
                continue
            if isinstance(outcome, Exception):
                ticket.answer.set_exception(outcome)
            else:
                ticket.answer.set_result(outcome)

    def _give_up(self, error: Exception) -> None:
        """Tells everybody who waits: a lane failed where it should not, and the pools are lost."""
        tickets = self._admission.tickets
        for ticket in tickets:
            ticket.gone = True
        self._settle([(ticket, own(error)) for ticket in tickets])
