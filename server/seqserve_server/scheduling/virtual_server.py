"""A server under a virtual clock: its transport, its lanes, its interpreter and its cores.

What decides is the real thing: `Admission` lets work in, `Pool` says what runs next. What takes
time is modelled: a turn takes what the cost model says, a call what bringing and answering it
costs, and

- one thread at a time has the interpreter: the transport, or a lane between two of its runs (the
  fixed cost of a turn, its rows and what it carries; half before its runs, half after);
- the transport, one thread, is patient: where every core is busy it waits until a lane reaches the
  end of its turn and gives way to it, or until that lane's slice is over;
- threads that are busy share the cores evenly.

Threads are generators: each yields the processor seconds it needs next, or what it waits for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqserve_server.errors import QueueFull
from seqserve_server.models.runner import PLAY_STEPS, work_steps
from seqserve_server.scheduling.admission import Admission
from seqserve_server.scheduling.cost import DEFAULT, Coefficients, CostModel
from seqserve_server.scheduling.pool import Batch, Group, Pool, Turn
from seqserve_server.scheduling.row_store import MOST_SLOTS
from seqserve_server.scheduling.stats import Stats
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import ServiceClass, cut

_SWITCH_S = 5e-3
"""The transport holds the interpreter no longer than this: `sys.getswitchinterval`."""

_SLICE_S = 3e-3
"""So long a thread may have a core that another waits for: Linux's base slice, about."""


@dataclass(frozen=True)
class ServerModel:
    """What a server is taken for: one process that serves one model."""

    cost: Coefficients = DEFAULT
    """What its runs cost, as fitted where it runs: `runner.cost.now` after its warm-up."""
    lanes: int = 1
    cores: float | None = None
    """That lanes and transport have together; as many as lanes by default, as `--lanes` has it."""
    call_s: float = 0.0
    """Processor seconds that a call costs besides its turn: to bring it and to answer it."""
    sequence_s: float = 0.0
    """The same for each of its sequences."""
    latency_s: float = 0.0
    """What network and client add to the latency of a call, half of it on the way there."""
    slots: int = MOST_SLOTS
    """Rows in play at most, at least MAX_ROWS in a real server; as `Pool`."""
    steps: int = PLAY_STEPS
    """Steps in play at most; as `Pool`."""
    whole: bool = False
    """Whether rows run to their end at once, as those of bidirectional models do."""
    max_row_steps: int = 65_536
    """Rows times steps that a run may hold."""
    max_queue_steps: int = 2_097_152
    """Steps that may be under way."""
    bulk_patience_s: float = 10.0
    """When bulk rows count as interactive."""


class Policy(Protocol):
    """What decides which rows run next: a Pool, or what it is to be compared with."""

    @property
    def has_ready(self) -> bool:
        """As `Pool.has_ready`."""
        ...

    @property
    def urges(self) -> bool:
        """As `Pool.urges`."""
        ...

    def add(self, ticket: Ticket) -> None:
        """As `Pool.add`."""
        ...

    def drop(self, ticket: Ticket) -> None:
        """As `Pool.drop`."""
        ...

    def admit(self, now: float) -> tuple[Group, list[Ticket]]:
        """As `Pool.admit`."""
        ...

    def turn(self, now: float) -> Turn | None:
        """As `Pool.turn`."""
        ...

    def done(self, turn: Turn, ran: int) -> Group:
        """As `Pool.done`."""
        ...


MakePolicy = Callable[[ServerModel, CostModel], Policy]


def make_pool(model: ServerModel, cost: CostModel) -> Policy:
    """The server's own policy."""
    return Pool(
        cost,
        slots=model.slots,
        steps=model.steps,
        whole=model.whole,
        max_row_steps=model.max_row_steps,
        lanes=model.lanes,
        bulk_patience_s=model.bulk_patience_s,
    )


class Fate(Enum):
    """What became of a call."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """By admission: too much was under way, or its answer would have come too late."""
    EXPIRED = "expired"
    """Its deadline passed first."""


class _Line:
    """Where threads wait, first come first served."""

    def __init__(self, clock: VirtualTime) -> None:
        self._clock = clock
        self._waiting: deque[_Thread] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, thread: _Thread) -> None:
        """Takes a thread that waits from now on."""
        self._waiting.append(thread)

    def call(self) -> bool:
        """Lets the first one go on; whether there was one."""
        if self._waiting:
            self._clock.wake(self._waiting.popleft())
            return True
        return False


class _Interpreter(_Line):
    """Had by one thread at a time: whoever joins goes on when it is theirs."""

    _taken = False

    def join(self, thread: _Thread) -> None:
        super().join(thread)
        if not self._taken:
            self._taken = self.call()

    def free(self) -> None:
        """Hands it to whoever waits."""
        self._taken = self.call()


_Thread = Generator[float | _Line, None, None]


class VirtualTime:
    """A clock that jumps from event to event, and cores that busy threads share evenly.

    Args:
        cores: How many; each thread has at most one.
    """

    def __init__(self, cores: float) -> None:
        self.now = 0.0
        self.worked_s = 0.0
        """Processor seconds, of all threads."""
        self.worked_until = 0.0
        """When a thread was last busy."""
        self._cores = cores
        self._ready: deque[_Thread] = deque()
        self._order = count()
        # Every busy thread advances alike: what each has had since the start says who is done.
        self._had_s = 0.0
        self._working: list[tuple[float, int, _Thread]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []

    def spares(self, threads: int) -> bool:
        """Whether so many threads more could have a core each."""
        return len(self._working) + threads <= self._cores

    def wake(self, thread: _Thread) -> None:
        """Lets a thread go on."""
        self._ready.append(thread)

    def at(self, time: float, then: Callable[[], None]) -> None:
        """Calls back at a time, or now where it is past."""
        heappush(self._timers, (max(time, self.now), next(self._order), then))

    @property
    def next_at(self) -> float:
        """When something happens next; infinite where nothing is left to happen."""
        if self._ready:
            return self.now
        return min(self._done_at(), self._timers[0][0] if self._timers else math.inf)

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._ready or self._working or self._timers:
            self.step()

    def step(self) -> None:
        """What happens next: a thread goes on, or the clock jumps."""
        if self._ready:
            self._go_on(self._ready.popleft())
        else:
            self._jump()

    def _go_on(self, thread: _Thread) -> None:
        need = next(thread)
        if isinstance(need, _Line):
            need.join(thread)
        else:
            self.worked_s += need
            heappush(self._working, (self._had_s + need, next(self._order), thread))

    def _jump(self) -> None:
        """To the next thread that has had what it needs, or the next timer."""
        done = self._done_at()
        if self._timers and self._timers[0][0] <= done:
            time, _, then = heappop(self._timers)
            if self._working:
                self._had_s += (time - self.now) * self._rate()
            self.now = time
            then()
        else:
            self._had_s, _, thread = heappop(self._working)
            self.now = self.worked_until = done
            self._ready.append(thread)

    def _done_at(self) -> float:
        """When the next thread has had what it needs; infinite where none is busy."""
        if not self._working:
            return math.inf
        return self.now + max(0.0, self._working[0][0] - self._had_s) / self._rate()

    def _rate(self) -> float:
        """What part of a core each busy thread has."""
        return min(1.0, self._cores / len(self._working))


class Call:
    """Sequences that a caller waits for.

    Args:
        lengths: (sequences,), steps of each.
        service_class: How urgent it is.
        deadline: When its caller stops waiting.
        ended: Told when, how, and, where it was refused, after how long to try again.
    """

    __slots__ = ("deadline", "ended", "lengths", "over", "pending", "service_class", "tickets")

    def __init__(
        self,
        lengths: NDArray[np.int64],
        service_class: ServiceClass,
        deadline: float,
        ended: Callable[[float, Fate, float], None],
    ) -> None:
        self.lengths = lengths
        self.service_class = service_class
        self.deadline = deadline
        self.ended = ended
        self.tickets: Sequence[Ticket] = ()
        self.pending = 0
        self.over = False

    def end(self, at: float, fate: Fate, retry_after_s: float = 0.0) -> None:
        """Tells its caller, unless it was told before."""
        if not self.over:
            self.over = True
            self.ended(at, fate, retry_after_s)


class _CallTicket(Ticket):
    """A ticket, and the call that it is all or part of."""

    __slots__ = ("call",)

    def __init__(self, lengths: NDArray[np.int64], arrived: float, call: Call) -> None:
        super().__init__(lengths, arrived, call.service_class, call.deadline)
        self.call = call


@dataclass
class _Ran:
    """A turn under way."""

    turn: Turn
    began: float
    batches: int = 0
    """How many of them have run."""

    @property
    def useful_steps(self) -> int:
        """Steps that were asked for, of the batches that have run."""
        return int(self.turn.advance[: self.turn.batches[self.batches - 1].stop].sum())


class VirtualServer:
    """Takes calls, and ends each of them once.

    Args:
        model: What it is taken for.
        clock: Says when.
        policy: Decides what runs next.
    """

    def __init__(self, model: ServerModel, clock: VirtualTime, policy: MakePolicy) -> None:
        self.stats = Stats()
        self.transport_s = 0.0
        """Time in which the transport was at work."""
        self._model = model
        self._clock = clock
        self._cost = CostModel(model.cost)
        self._policy = policy(model, self._cost)
        self._admission = Admission(model.max_queue_steps, model.lanes)
        self._work_steps = work_steps(model.steps)
        self._interpreter = _Interpreter(clock)
        self._jobs: deque[tuple[float, Callable[[float], None]]] = deque()
        self._transport_rests = _Line(clock)
        self._patience = _Line(clock)  # where the transport waits for a core
        self._waits = 0  # how often it did
        self._given_way = _Line(clock)  # where lanes wait for the transport
        self._inbox: deque[Ticket] = deque()
        self._lanes_rest = _Line(clock)
        self._interactive_waits = False
        clock.wake(self._transport())
        for _ in range(model.lanes):
            clock.wake(self._lane())

    def receive(self, call: Call) -> None:
        """Takes a call, now."""
        self._post(self._half_s(len(call.lengths)), partial(self._submit, call))
        if call.deadline < math.inf:
            self._clock.at(call.deadline, partial(self._leave, call))

    def _half_s(self, sequences: int) -> float:
        """What a call costs the transport on its way in, and again on its way out."""
        return (self._model.call_s + self._model.sequence_s * sequences) / 2

    def _post(self, seconds: float, then: Callable[[float], None]) -> None:
        """A job for the transport: what it costs, and what is done at its end."""
        self._jobs.append((seconds, then))
        self._transport_rests.call()

    def _transport(self) -> _Thread:
        while True:
            if not self._jobs:
                yield self._transport_rests
                if not self._clock.spares(1):
                    self._waits += 1
                    over = partial(self._slice_over, self._waits)
                    self._clock.at(self._clock.now + _SLICE_S, over)
                    yield self._patience
            yield self._interpreter
            jobs, needs_s = [], 0.0
            while self._jobs and needs_s < _SWITCH_S:
                seconds, then = self._jobs.popleft()
                needs_s += seconds
                jobs.append((needs_s, then))
            began = self._clock.now
            yield needs_s
            took_s = self._clock.now - began
            self.transport_s += took_s
            for done_s, then in jobs:
                then(began + took_s * (done_s / needs_s if needs_s else 1.0))
            self._interpreter.free()
            while self._given_way.call():
                pass

    def _slice_over(self, wait: int) -> None:
        """The transport has waited for long enough, if that wait is not over."""
        if wait == self._waits:
            self._patience.call()

    def _submit(self, call: Call, at: float) -> None:
        if call.over:
            return
        tickets = [_CallTicket(part, at, call) for part in self._parts(call.lengths)]
        try:
            self._admission.enter(tickets, self._cost, at)
        except QueueFull as full:
            told = partial(call.end, fate=Fate.REFUSED, retry_after_s=full.retry_after_s)
            self._post(self._half_s(0), told)
            return
        call.tickets = tickets
        call.pending = len(tickets)
        if call.service_class is ServiceClass.INTERACTIVE:
            self._interactive_waits = True
        for ticket in tickets:
            self._put(ticket)

    def _parts(self, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        if len(lengths) == 1:
            return [lengths]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        return [lengths[first:stop] for first, stop in cut(offsets, self._work_steps)]

    def _leave(self, call: Call) -> None:
        """The caller stops waiting."""
        if not call.over:
            call.end(self._clock.now, Fate.EXPIRED)
            self._give_up(call)

    def _give_up(self, call: Call) -> None:
        for ticket in call.tickets:
            self._admission.leave(ticket, self._clock.now)
            ticket.gone = True
            self._put(ticket)

    def _put(self, ticket: Ticket) -> None:
        self._inbox.append(ticket)
        self._lanes_rest.call()

    def _lane(self) -> _Thread:
        ran: _Ran | None = None
        while True:
            ran = yield from self._border(ran)
            if ran is None:
                began = self._clock.now
                yield self._lanes_rest
                self.stats.idle_s += self._clock.now - began
            else:
                yield from self._run(ran)

    def _border(self, ran: _Ran | None) -> Generator[float | _Line, None, _Ran | None]:
        """Between two turns: what ran is settled, what came is taken in, what runs next chosen."""
        reached = self._clock.now
        given_way_s = 0.0
        if ran is not None:
            yield self._interpreter
            yield self._half_turn_s(ran.turn, ran.batches)
            for ticket in self._policy.done(ran.turn, ran.batches).tickets:
                self._answer(ticket)
            self._interpreter.free()
            told = self._clock.now
            yield from self._give_way()
            given_way_s = self._clock.now - told
            runs_s = sum(map(self._run_s, ran.turn.batches[: ran.batches]))
            self._cost.keep_pace(self._cost.now.turn + runs_s, self._clock.now - ran.began)
        yield self._interpreter
        self._take_in()
        now = self._clock.now
        # Those that expired were told when they did, and have left.
        self._policy.admit(now)
        turn = self._policy.turn(now)
        if turn is not None:
            self.stats.waited(turn.waited_s[~turn.begun], turn.service_class)
            if self._policy.has_ready:
                self._lanes_rest.call()
                self._interactive_waits |= self._policy.urges
            yield self._half_turn_s(turn, len(turn.batches))
        self._interpreter.free()
        self.stats.around_s += self._clock.now - reached - given_way_s
        return None if turn is None else _Ran(turn, now)

    def _give_way(self) -> _Thread:
        """Lets the transport do what it has to, where it would have to wait for a core."""
        if self._jobs and not self._clock.spares(2):
            self._patience.call()
            yield self._given_way

    def _run(self, ran: _Ran) -> _Thread:
        """Runs a turn's batches; a bulk one yields to whoever comes."""
        began, batches = self._clock.now, ran.turn.batches
        if ran.turn.service_class is ServiceClass.BULK:
            for batch in batches:
                if ran.batches:
                    yield from self._give_way()
                    if self._interactive_waits:
                        break
                yield self._run_s(batch)
                ran.batches += 1
        else:
            yield sum(map(self._run_s, batches))
            ran.batches = len(batches)
        each_s = (self._clock.now - began) / max(ran.batches, 1)
        self.stats.ran(batches[: ran.batches], ran.useful_steps, [each_s] * ran.batches)

    def _take_in(self) -> None:
        self._interactive_waits = False
        while self._inbox:
            ticket = self._inbox.popleft()
            if ticket.gone:
                self._policy.drop(ticket)
            else:
                self._policy.add(ticket)

    def _answer(self, ticket: Ticket) -> None:
        assert isinstance(ticket, _CallTicket)
        self.stats.answered([len(ticket.lengths)])
        self._admission.leave(ticket, self._clock.now)
        call = ticket.call
        call.pending -= 1
        if not call.pending:
            self._post(self._half_s(len(call.lengths)), partial(call.end, fate=Fate.ANSWERED))

    def _run_s(self, batch: Batch) -> float:
        cost = self._model.cost
        rows = batch.stop - batch.first
        return cost.run + (cost.step + cost.row_step * rows) * batch.steps

    def _half_turn_s(self, turn: Turn, ran: int) -> float:
        """What a turn of which so many batches run costs before them, and again after them."""
        cost = self._model.cost
        carried = 0
        for batch in turn.batches[:ran]:
            rows = slice(batch.first, batch.stop)
            if turn.begun[rows].any() or not turn.ends[rows].all():
                carried += batch.stop - batch.first
        return (cost.turn + cost.row * turn.batches[ran - 1].stop + cost.carry * carried) / 2
