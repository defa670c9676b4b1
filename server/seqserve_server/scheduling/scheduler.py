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
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from weakref import WeakKeyDictionary

from seqserve_server import cores
from seqserve_server.errors import DeadlineSpent, Draining
from seqserve_server.models.runner import Runner
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

FAILURES = 3
"""Turns of a model that fail, one after the other, before it counts as failing: one may be the
fault of its rows."""

_Told = Sequence[tuple[Ticket, Outcome]]


class _Submission(WorkTicket):
    """A ticket and who is told what becomes of it."""

    __slots__ = ("tell",)

    def __init__(self, work: Work, arrived: float, tell: Callable[[Outcome], None]) -> None:
        super().__init__(work, arrived)
        self.tell = tell


class _Lane(threading.Thread):
    """A thread that runs one turn at a time."""

    reached: float | None = None
    """When it was last seen at a border; None while it rests."""


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
        self._stats = Stats()  # how the lanes spent their time, but for what they ran
        self._stats_by_model: defaultdict[str, Stats] = defaultdict(Stats)
        self._resting: dict[threading.Thread, float] = {}  # since when
        self._failures: WeakKeyDictionary[Runner, int] = WeakKeyDictionary()  # since a turn held
        self._untold: Settled = []
        self._closed = False
        self._timing = False  # whether any work has had a timeline
        self._lanes = [self._lane(index) for index in range(lanes)]
        self.lanes_died = 0
        """Lanes that ended before their time, and were replaced."""

    def start(self) -> None:
        """As `Scheduler.start`."""
        for lane in self._lanes:
            lane.start()

    def check(self, deadline: float) -> None:
        """As `Scheduler.check`."""
        with self._entrance:
            self._admission.check(deadline, self._clock())

    def submit(self, work: Work, tell: Callable[[Outcome], None]) -> Leave:
        """As `Scheduler.submit`."""
        return self.submit_all((work,), (tell,))

    def submit_all(
        self, works: Sequence[Work], tells: Sequence[Callable[[Outcome], None]]
    ) -> Leave:
        """As `Scheduler.submit_all`."""
        now = self._clock()
        tickets = [_Submission(work, now, tell) for work, tell in zip(works, tells, strict=True)]
        first = works[0]
        if first.timeline is not None:
            self._timing = True
        with self._entrance:
            if self._closed:
                raise Draining
            self._admission.enter(tickets, first.runner.cost, now)
            for ticket in tickets:
                self._inbox.put(ticket)  # before the scheduler can be closed
        if first.service_class is ServiceClass.INTERACTIVE:
            self._interactive_waits = True
        return partial(self._leave, tickets)

    def stats(self) -> Stats:
        """What the lanes did so far."""
        with self._lock:
            stats = sum(self._stats_by_model.values(), self._stats)
            resting_s = sum(self._clock() - since for since in self._resting.values())
            return replace(stats, idle_s=stats.idle_s + resting_s)

    def stats_by_model(self) -> dict[str, Stats]:
        """What they did with the rows of each model so far."""
        with self._lock:
            return {model: stats.copy() for model, stats in self._stats_by_model.items()}

    @property
    def queue_steps(self) -> int:
        """How many steps are under way: those that wait and those in play."""
        return self._admission.steps

    def caution(self) -> dict[ServiceClass, float]:
        """How many times its prediction a wait is taken for, by class."""
        with self._entrance:
            return self._admission.caution(self._clock())

    @property
    def lanes_alive(self) -> int:
        """How many lanes there are now."""
        return sum(lane.is_alive() for lane in self._lanes)

    @property
    def lanes_missing(self) -> int:
        """How many have ended and could not be replaced."""
        return 0 if self._closed else len(self._lanes) - self.lanes_alive

    @property
    def lanes_busy(self) -> int:
        """How many of them have something to run."""
        return sum(lane.is_alive() and lane.reached is not None for lane in self._lanes)

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

    def longest_turn_s(self) -> float:
        """For how long the slowest lane has not been at a border; 0 where all rest."""
        now = self._clock()
        reached = [lane.reached for lane in self._lanes]
        return max((now - each for each in reached if each is not None), default=0.0)

    def replace_missing(self) -> None:
        """Tries again to start the lanes that could not be replaced when they ended."""
        for index in range(len(self._lanes)):
            with self._lock:  # whoever is about to be replaced is so already
                if not self._closed and not self._lanes[index].is_alive():
                    self._replace(index)

    def failing(self) -> list[Runner]:
        """The models whose latest turns all failed, FAILURES of them at least."""
        with self._lock:
            return [runner for runner, count in self._failures.items() if count >= FAILURES]

    def _lane(self, index: int) -> _Lane:
        return _Lane(
            target=self._run_lane, args=(index,), name=f"seqserve-lane-{index}", daemon=True
        )

    def _leave(self, tickets: Sequence[_Submission]) -> None:
        """A caller has gone: its rows are let go at the next border."""
        for ticket in tickets:
            if self._take_out(ticket):
                ticket.gone = True
                self._inbox.put(ticket)
        # Where every lane is busy, and for long perhaps, nobody else lets go of what they hold.
        if self._lock.acquire(blocking=False):
            try:
                if not self._resting:
                    self._take_in()
            finally:
                self._lock.release()

    def _take_out(self, ticket: _Submission) -> Callable[[Outcome], None] | None:
        """How its caller is told; to the first of all who ask, None to the others."""
        with self._entrance:
            if not self._admission.leave(ticket, self._clock()):
                return None
            if not self._admission.steps:
                self._emptied.notify_all()
        tell = ticket.tell
        del ticket.tell  # the two hold one another, and must not wait for the garbage collector
        return tell

    def _run_lane(self, index: int) -> None:
        """Runs turns; where even this ends before its time, another lane takes its place."""
        lane = self._lanes[index]
        try:
            self._take_turns(lane)
        except BaseException as error:
            _log.critical("%s has ended; another takes its place", lane.name, exc_info=True)
            with self._lock:
                self._resting.pop(lane, None)
                self.lanes_died += 1
            try:
                self._give_up(_told(error))  # first: another lane may not be had
            finally:
                with self._lock:
                    self._replace(index)

    def _replace(self, index: int) -> None:
        self._lanes[index] = lane = self._lane(index)
        try:
            lane.start()
        except Exception:
            _log.critical("%s could not be replaced", lane.name, exc_info=True)

    def _take_turns(self, lane: _Lane) -> None:
        workspace = Workspace()
        prepared: Prepared | None = None
        while True:
            try:
                prepared = self._border(prepared, workspace, lane)
                if prepared is not None:
                    prepared.batcher.run(prepared, self._go_on(prepared))
                elif self._closed:
                    self._inbox.put(None)  # for the other lanes
                    return
                else:
                    self._rest(lane)
            except Exception as error:
                _log.exception("%s failed; what was under way is given up", lane.name)
                prepared = None
                self._give_up(error)

    def _border(self, ran: Prepared | None, workspace: Workspace, lane: _Lane) -> Prepared | None:
        """Between two turns: what ran is settled, what came is taken in, what runs next chosen."""
        reached = lane.reached = self._clock()
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
            prepared, told_now = self._prepare(busy, now, workspace)
            if prepared is None:
                self._resting[lane] = self._clock()
            elif self._resting and any(batcher.pool.has_ready for batcher in busy):
                self._inbox.put(None)  # wakes a lane that rests
            self._interactive_waits = False
            # In this order: what is put from now on sets it again.
            if not self._inbox.empty() or _urges(busy):
                self._interactive_waits = True
            self._stats.given_way_s += given_way_s
            self._stats.around_s += self._clock() - reached - given_way_s
        if told_now:
            self._tell(told_now)
        return prepared

    def _prepare(
        self, busy: list[Batcher], now: float, workspace: Workspace
    ) -> tuple[Prepared | None, Settled]:
        """The next turn of the model whose row is due first, and who is to be told of no turn."""
        told, self._untold = self._untold, []
        for batcher in tuple(busy):
            try:
                if expired := batcher.admit(now):
                    told += [(ticket, DeadlineSpent()) for ticket in expired]
            except Exception as error:
                told += self._lose(batcher, error)
                busy.remove(batcher)
        if len(busy) > 1:
            busy.sort(key=lambda batcher: batcher.pool.urgency(now))
        for batcher in busy:
            try:
                if prepared := batcher.prepare(now, workspace):
                    return prepared, told
            except Exception as error:
                told += self._lose(batcher, error)
        return None, told

    def _finish(self, ran: Prepared) -> Settled:
        """Takes in what a turn gave."""
        if self._timing:
            self._note_times(ran)
        try:
            settled = ran.batcher.finish(ran)
        except Exception as error:
            return self._lose(ran.batcher, error)
        if ran.error is not None or self._failures:
            self._count(ran)
        stats = self._stats_by_model[ran.batcher.model]
        stats.answered([len(ticket.lengths) for ticket, _ in settled])
        stats.ran(ran.batches_run, ran.useful_steps, ran.run_s)
        fresh = ~ran.turn.begun[: ran.rows]
        stats.waited(ran.turn.waited_s[: ran.rows][fresh], ran.turn.service_class)
        return settled

    def _note_times(self, ran: Prepared) -> None:
        """For those who want to know when their rows ran."""
        now = self._clock()
        tried = len(ran.outputs) + (ran.error is not None)
        rows = ran.turn.batches[tried - 1].stop if tried else 0
        for ticket in set(ran.turn.tickets[:rows]):
            assert isinstance(ticket, WorkTicket)
            if ticket.work.timeline is not None:
                ticket.work.timeline.note(ran.began_s, now)

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

    def _rest(self, lane: _Lane) -> None:
        """Waits until something comes."""
        lane.reached = None
        ticket = self._inbox.get()
        lane.reached = now = self._clock()
        with self._lock:
            self._stats.idle_s += now - self._resting.pop(lane)
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
            lanes = len(self._lanes)
            try:
                batcher = Batcher(runner, lanes=lanes, bulk_patience_s=self._bulk_patience_s)
            except Exception as error:  # most of its room is taken here
                _log.exception("there is no room for rows of a model")
                ticket.gone = True
                self._untold.append((ticket, error))
                return
            self._batchers[runner] = batcher
        batcher.pool.add(ticket)

    def _clear(self) -> list[Ticket]:
        return [t for batcher in self._batchers.values() for t in batcher.pool.clear()]

    def _tell(self, told: _Told) -> None:
        """Tells callers what became of their work; holds no lock, for it may take a while."""
        for ticket, outcome in told:
            assert isinstance(ticket, _Submission)
            if tell := self._take_out(ticket):
                try:
                    tell(outcome)
                except Exception:  # it must not, and others are to be told
                    _log.exception("a caller could not be told")

    def _count(self, ran: Prepared) -> None:
        """How many turns of a model have failed since one held."""
        for runner, batcher in self._batchers.items():
            if batcher is not ran.batcher:
                continue
            if ran.error is None or ran.outputs:
                self._failures.pop(runner, None)
            if ran.error is not None:
                self._failures[runner] = self._failures.get(runner, 0) + 1

    def _lose(self, batcher: Batcher, error: Exception) -> Settled:
        """Its own books cannot be trusted any more: its rows are lost, those of others are not."""
        _log.error("a model's rows are given up, for its lane failed", exc_info=error)
        lost = [runner for runner, each in self._batchers.items() if each is batcher]
        if not lost:  # another lane has been here
            return []
        [runner] = lost
        del self._batchers[runner]
        self._failures[runner] = self._failures.get(runner, 0) + 1
        with self._entrance:  # nobody comes in meanwhile
            tickets = [
                ticket
                for ticket in self._admission.tickets
                if isinstance(ticket, _Submission) and ticket.work.runner is runner
            ]
            for ticket in tickets:  # those in the inbox will be dropped when they are taken
                ticket.gone = True
        return [(ticket, own(error)) for ticket in tickets]

    def _give_up(self, error: Exception) -> None:
        """Tells everybody who waits: a lane failed where it should not, and the pools are lost."""
        with self._lock, self._entrance:  # nobody comes into a new pool meanwhile
            self._batchers = WeakKeyDictionary()
            tickets = self._admission.tickets
            for ticket in tickets:  # those in the inbox will be dropped when they are taken
                ticket.gone = True
        self._tell([(ticket, own(error)) for ticket in tickets])


def _told(error: BaseException) -> Exception:
    """What callers can be told of it."""
    return error if isinstance(error, Exception) else RuntimeError(f"a lane ended: {error!r}")


def _urges(busy: list[Batcher]) -> bool:
    """Whether interactive rows are ready that a lane with a bulk turn should yield to."""
    return any(batcher.pool.has_bulk for batcher in busy) and any(
        batcher.pool.urges for batcher in busy
    )
