"""The thin loop: threads that take turns from the batchers, and the way to and from them.

A lane is a thread that runs one turn at a time; onnxruntime lets go of the interpreter while it
computes. Whoever submits hands work over through one queue and waits for no lane. A lane tells the
callers itself what became of their work, after the border at which it was settled.

Each ticket is told once: whoever takes it out of admission, the lane or the caller who leaves, has
the last word on it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from weakref import WeakKeyDictionary

from seqserve_server import cores
from seqserve_server.errors import DeadlineSpent, Draining
from seqserve_server.runner import Runner
from seqserve_server.scheduling.admission import Admission
from seqserve_server.scheduling.batcher import Batcher, Prepared, Settled, WorkTicket, own
from seqserve_server.scheduling.row_store import Workspace
from seqserve_server.scheduling.stats import Stats
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import Leave, Outcome, ServiceClass, Work

_log = logging.getLogger(__name__)

_JOIN_S = 10.0
_OBSERVED_TURNS = 4
"""The costs are learnt from one in so many."""

_Told = Sequence[tuple[Ticket, Outcome]]


class _Submission(WorkTicket):
    """A ticket and who is told what becomes of it."""

    __slots__ = ("tell",)

    tell: Callable[[Outcome], None]


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
        self._entrance = threading.Lock()  # guards the admission and `_closed`
        self._emptied = threading.Condition(self._entrance)
        self._bulk_patience_s = bulk_patience_s
        self._clock = clock
        self._inbox: SimpleQueue[_Submission | None] = SimpleQueue()
        self._interactive_waits = False
        self._lock = threading.Lock()  # guards the batchers, the statistics and `_resting`
        self._batchers: WeakKeyDictionary[Runner, Batcher] = WeakKeyDictionary()
        self._stats = Stats()
        self._resting: dict[threading.Thread, float] = {}  # since when
        self._closed = False
        self._lanes = [
            threading.Thread(target=self._run_lane, name=f"seqserve-lane-{index}", daemon=True)
            for index in range(lanes)
        ]

    def start(self) -> None:
        """As `Scheduler.start`."""
        for lane in self._lanes:
            lane.start()

    def submit(self, work: Work, tell: Callable[[Outcome], None]) -> Leave:
        """As `Scheduler.submit`."""
        now = self._clock()
        ticket = _Submission(work, now)
        ticket.tell = tell
        with self._entrance:
            if self._closed:
                raise Draining
            self._admission.enter(ticket, work.runner.cost, now)
            self._inbox.put(ticket)  # before the scheduler can be closed
        if work.service_class is ServiceClass.INTERACTIVE:
            self._interactive_waits = True
        return partial(self._leave, ticket)

    def stats(self) -> Stats:
        """What the lanes did so far."""
        with self._lock:
            stats = self._stats.copy()
            stats.idle_s += sum(self._clock() - since for since in self._resting.values())
        return stats

    def wait_until_idle(self, timeout_s: float) -> bool:
        """As `Scheduler.wait_until_idle`."""
        with self._entrance:
            return self._emptied.wait_for(
                lambda: self._closed or not self._admission.steps,
                min(timeout_s, threading.TIMEOUT_MAX),
            )

    def close(self) -> None:
        """As `Scheduler.close`; a lane that hangs is left behind."""
        with self._entrance:
            self._closed = True
            self._emptied.notify_all()
        with self._lock:
            self._take_in()
            left = self._clear()
        self._tell([(ticket, Draining()) for ticket in left])
        self._inbox.put(None)
        end = time.monotonic() + _JOIN_S
        for lane in self._lanes:
            if lane.is_alive():
                lane.join(max(0.0, end - time.monotonic()))
            if lane.is_alive():
                _log.warning("%s still runs after %g s; it is left behind", lane.name, _JOIN_S)

    def _leave(self, ticket: _Submission) -> None:
        """A caller has gone: its rows are let go at the next border."""
        if self._take_out(ticket):
            ticket.gone = True
            self._inbox.put(ticket)

    def _take_out(self, ticket: _Submission) -> Callable[[Outcome], None] | None:
        """How its caller is told; to the first of all who ask, None to the others."""
        with self._entrance:
            if not self._admission.leave(ticket):
                return None
            if not self._admission.steps:
                self._emptied.notify_all()
        tell = ticket.tell
        del ticket.tell  # the two hold one another, and must not wait for the garbage collector
        return tell

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
                self._give_up(error)

    def _border(self, ran: Prepared | None, workspace: Workspace) -> Prepared | None:
        """Between two turns: what ran is settled, what came is taken in, what runs next chosen."""
        reached = self._clock()
        with self._lock:
            settled = [] if ran is None else self._finish(ran)
            more = not all(batcher.pool.idle for batcher in self._batchers.values())
        self._tell(settled)
        told = self._clock()
        if more or not self._inbox.empty():
            # Those who take calls and bring answers may be waiting for this very core: at a border
            # they delay nobody, and what they bring has a part in the next turn.
            cores.give_way()
        given_way_s = self._clock() - told
        with self._lock:
            now = self._clock()
            if ran is not None:
                self._learn(ran, now)
            self._take_in()
            busy = [batcher for batcher in self._batchers.values() if not batcher.pool.idle]
            prepared, expired = _prepare(busy, now, workspace)
            if prepared is None:
                self._resting[threading.current_thread()] = self._clock()
            elif self._resting and any(batcher.pool.has_ready for batcher in busy):
                self._inbox.put(None)  # wakes a lane that rests
            self._interactive_waits = False
            # In this order: what is put from now on sets it again.
            if not self._inbox.empty() or _urges(busy):
                self._interactive_waits = True
            self._stats.given_way_s += given_way_s
            self._stats.around_s += self._clock() - reached - given_way_s
        if expired:
            self._tell([(ticket, DeadlineSpent()) for ticket in expired])
        return prepared

    def _finish(self, ran: Prepared) -> Settled:
        """Takes in what a turn gave."""
        settled = ran.batcher.finish(ran)
        self._stats.answered([len(ticket.lengths) for ticket, _ in settled])
        self._stats.ran(ran.batches_run, ran.useful_steps, ran.run_s)
        fresh = ~ran.turn.begun[: ran.rows]
        self._stats.waited(ran.turn.waited_s[: ran.rows][fresh])
        return settled

    def _learn(self, ran: Prepared, now: float) -> None:
        """What a turn cost, its callers' answers included."""
        if ran.error is not None or not ran.outputs:
            return
        cost = ran.batcher.pool.cost
        cost.keep_pace(ran.predicted_s, now - ran.began_s)
        if ran.batcher.turns % _OBSERVED_TURNS == 0:
            cost.observe(ran.spent())

    def _go_on(self, prepared: Prepared) -> Callable[[], bool]:
        """Whether a turn may run its next batch: a bulk one yields to whoever waits."""
        if prepared.turn.service_class is ServiceClass.BULK:
            return self._nobody_waits
        return lambda: True

    def _nobody_waits(self) -> bool:
        cores.give_way()  # or nobody could come, where this core is all there is
        return not self._interactive_waits

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
        if ticket.gone:
            if batcher is not None:
                batcher.pool.drop(ticket)
            return
        if batcher is None:
            batcher = Batcher(runner, lanes=len(self._lanes), bulk_patience_s=self._bulk_patience_s)
            self._batchers[runner] = batcher
        batcher.pool.add(ticket)

    def _clear(self) -> list[Ticket]:
        return [t for batcher in self._batchers.values() for t in batcher.pool.clear()]

    def _tell(self, told: _Told) -> None:
        """Tells callers what became of their work; holds no lock, for it may take a while."""
        for ticket, outcome in told:
            assert isinstance(ticket, _Submission)
            if tell := self._take_out(ticket):
                tell(outcome)

    def _give_up(self, error: Exception) -> None:
        """Tells everybody who waits: a lane failed where it should not, and the pools are lost."""
        with self._lock, self._entrance:  # nobody comes into a new pool meanwhile
            self._batchers = WeakKeyDictionary()
            tickets = self._admission.tickets
            for ticket in tickets:  # those in the inbox will be dropped when they are taken
                ticket.gone = True
        self._tell([(ticket, own(error)) for ticket in tickets])


def _prepare(
    busy: list[Batcher], now: float, workspace: Workspace
) -> tuple[Prepared | None, list[Ticket]]:
    """The next turn of the model whose row is due first, and the tickets that expired."""
    expired = [ticket for batcher in busy for ticket in batcher.admit(now)]
    if len(busy) > 1:
        busy.sort(key=lambda batcher: batcher.pool.urgency(now))
    for batcher in busy:
        if prepared := batcher.prepare(now, workspace):
            return prepared, expired
    return None, expired


def _urges(busy: list[Batcher]) -> bool:
    """Whether interactive rows are ready that a lane with a bulk turn should yield to."""
    return any(batcher.pool.has_bulk for batcher in busy) and any(
        batcher.pool.urges for batcher in busy
    )
