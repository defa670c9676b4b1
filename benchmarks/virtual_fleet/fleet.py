"""A fleet of replicas under one virtual clock: who answers a call, and what becomes of it.

Each replica is `VirtualServer`, hence the server's own admission and policy, with cores of its own.
What lies around them is modelled here: balancers that learn late who serves, a network that takes
half of `latency_s` each way, and clients that try again what ended UNAVAILABLE, as those of this
project do, and nothing else. Equal arguments give equal results, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count

import numpy as np

from benchmarks.virtual_fleet.model import FleetModel
from benchmarks.virtual_fleet.replica import Attempt, Called, Replica, State
from benchmarks.virtual_fleet.result import ENDINGS, Ending, FleetResult
from seqserve_server.scheduling.simulation import Calls
from seqserve_server.scheduling.virtual_server import (
    Call,
    Fate,
    ServerModel,
)

_OF_FATE = {
    Fate.ANSWERED: Ending.ANSWERED,
    Fate.REFUSED: Ending.REFUSED,
    Fate.EXPIRED: Ending.EXPIRED,
}

_BACKOFF_TIMES, _LONGEST_BACKOFF_S, _JITTER = 2.5, 2.0, 0.2


class Fleet:
    """Takes calls, and ends each of them once.

    Args:
        model: What it is taken for.
    """

    def __init__(self, model: FleetModel) -> None:
        self.model = model
        self.now = 0.0
        self.replicas: list[Replica] = []
        self.known: list[int] = []
        """The replicas that balancers take for serving."""
        self._rng = np.random.default_rng(model.seed)
        self._balancers = [model.balancer(model.seed + each) for each in range(model.balancers)]
        self._way_s = model.server.latency_s / 2
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._clocks: list[tuple[float, int, int, Replica]] = []
        self._calls: Calls | None = None
        for each in (model.first or model.server, *[model.server] * (model.replicas - 1)):
            self._serve(self._add(each))
        self.known = [replica.number for replica in self.replicas]

    @property
    def wanted(self) -> int:
        """Replicas that serve, or will."""
        return sum(each.state in (State.STARTING, State.SERVING) for each in self.replicas)

    @property
    def serving(self) -> list[Replica]:
        """Those that serve, the oldest first."""
        return [each for each in self.replicas if each.state is State.SERVING]

    def at(self, time: float, then: Callable[[], None]) -> None:
        """Calls back at a time."""
        heappush(self._events, (max(time, self.now), next(self._order), then))

    def start(self) -> Replica:
        """Wishes for a replica, which serves `start_s` later."""
        replica = self._add(self.model.server)
        self.at(self.now + self.model.start_s, partial(self._serve, replica))
        return replica

    def stop(self, replica: Replica) -> None:
        """Drains a replica that starts or serves."""
        if replica.state is State.STARTING:
            self._end(replica, State.STOPPED)
        elif replica.state is State.SERVING:
            replica.state = State.DRAINING
            replica.refuses_from = self.now + self.model.drain_pause_s
            self.at(self.now + self.model.notice_s, partial(self._forget, replica))
            self.at(replica.refuses_from, partial(self._stop_when_idle, replica))

    def crash(self, replica: Replica) -> None:
        """Ends a replica: its callers' connections break."""
        self._end(replica, State.CRASHED)
        for attempt in replica.under_way:
            self.at(self.now + self._way_s, partial(self._lost, attempt))
        self.at(self.now + max(self.model.detect_s, self._way_s), partial(self._forget, replica))

    def silence(self, replica: Replica) -> None:
        """Cuts a replica off: its callers wait for their deadlines."""
        self._end(replica, State.SILENT)
        for attempt in replica.under_way:
            self._wait_out(attempt)
        if self.model.detect_silence_s < math.inf:
            self.at(self.now + self.model.detect_silence_s, partial(self._forget, replica))

    def run(self, calls: Calls) -> FleetResult:
        """Until every call has ended and every replica is at rest.

        Args:
            calls: Of an open loop.
        """
        assert calls.times_s is not None, "callers who wait for answers are not modelled"
        offsets = np.concatenate([[0], calls.sizes.cumsum()]).tolist()
        whose = self._rng.integers(len(self._balancers), size=len(calls.sizes)).tolist()
        times_s = calls.times_s.tolist()
        self._calls = calls
        self._ended_s = np.full(len(times_s), np.nan)
        self._endings = np.full(len(times_s), -1, np.int8)
        self._attempts = np.zeros(len(times_s), np.int64)

        def arrive(index: int) -> None:
            if index + 1 < len(times_s):
                self.at(times_s[index + 1], partial(arrive, index + 1))
            lengths = calls.lengths[offsets[index] : offsets[index + 1]]
            deadline = times_s[index] + calls.timeout_s
            self._try(Called(index, lengths, self._balancers[whose[index]], deadline))

        if times_s:
            self.at(times_s[0], partial(arrive, 0))
        self._run()
        return self._result(calls)

    def _run(self) -> None:
        """What happens next, in the fleet or in a replica, again and again."""
        while True:
            while self._clocks and not self._current(self._clocks[0]):
                heappop(self._clocks)
            own = self._events[0][0] if self._events else math.inf
            if self._clocks and self._clocks[0][0] < own:
                at, _, _, replica = heappop(self._clocks)
                self.now = max(self.now, at)  # the clock of one that begins now is at 0
                replica.clock.step()
                self._look(replica)
            elif self._events:
                self.now, _, then = heappop(self._events)
                then()
            else:
                return

    @staticmethod
    def _current(entry: tuple[float, int, int, Replica]) -> bool:
        _, _, version, replica = entry
        return replica.runs and version == replica.version

    def _look(self, replica: Replica) -> None:
        """Notes when a replica's clock goes on."""
        replica.version += 1
        at = replica.clock.next_at
        if at < math.inf:
            heappush(self._clocks, (at, next(self._order), replica.version, replica))

    def _add(self, model: ServerModel) -> Replica:
        replica = Replica(len(self.replicas), model, self.now)
        self.replicas.append(replica)
        return replica

    def _serve(self, replica: Replica) -> None:
        if replica.state is State.STARTING:
            replica.state = State.SERVING
            self._look(replica)
            self.at(self.now + self.model.notice_s, partial(self._learn, replica))

    def _learn(self, replica: Replica) -> None:
        if replica.state is not State.DRAINING and replica.number not in self.known:
            self.known = [*self.known, replica.number]

    def _forget(self, replica: Replica) -> None:
        self.known = [each for each in self.known if each != replica.number]

    def _end(self, replica: Replica, state: State) -> None:
        replica.state = state
        replica.ended = self.now

    def _stop_when_idle(self, replica: Replica) -> None:
        if replica.state is State.DRAINING and not replica.under_way:
            self._end(replica, State.STOPPED)

    def _try(self, called: Called) -> None:
        if self.now >= called.deadline:
            self._over(called, Ending.EXPIRED, called.deadline)
            return
        called.attempts += 1
        if not self.known:
            self._again(called)
            return
        replica = self.replicas[called.balancer.choose(self.known)]
        attempt = Attempt(called, replica)
        arrives = self.now + self._way_s
        if replica.state is State.SILENT:
            self._wait_out(attempt)
        elif not replica.runs or arrives >= replica.refuses_from:
            self.at(arrives + self._way_s, partial(self._lost, attempt))
        else:
            assert self._calls is not None
            ended = partial(self._ended, attempt)
            call = Call(called.lengths, self._calls.service_class, called.deadline, ended)
            replica.clock.at(arrives, partial(replica.server.receive, call))
            self._look(replica)

    def _ended(self, attempt: Attempt, at: float, fate: Fate, retry_after_s: float) -> None:
        """A replica has ended it; its caller knows a way later, and at once of its deadline."""
        known = at if fate is Fate.EXPIRED else at + self._way_s
        self.at(known, partial(self._told, attempt, _OF_FATE[fate], known))

    def _told(self, attempt: Attempt, ending: Ending, at: float) -> None:
        """Its caller knows; transports tell of several together, and so of some later than `at`."""
        if attempt.end():
            late = at > attempt.called.deadline
            self._over(attempt.called, Ending.EXPIRED if late else ending, at)
            if self.now >= attempt.replica.refuses_from:
                self._stop_when_idle(attempt.replica)

    def _wait_out(self, attempt: Attempt) -> None:
        """Nothing will come back."""
        deadline = attempt.called.deadline
        self.at(deadline, partial(self._told, attempt, Ending.EXPIRED, deadline))

    def _lost(self, attempt: Attempt) -> None:
        """UNAVAILABLE: tried again, elsewhere where that is known."""
        if attempt.end():
            self._again(attempt.called)
            if self.now >= attempt.replica.refuses_from:
                self._stop_when_idle(attempt.replica)

    def _again(self, called: Called) -> None:
        if called.attempts == self.model.attempts:
            self._over(called, Ending.UNAVAILABLE, self.now)
            return
        wait_s = min(
            self.model.backoff_s * _BACKOFF_TIMES ** (called.attempts - 1), _LONGEST_BACKOFF_S
        )
        wait_s *= 1 + _JITTER * (2 * float(self._rng.random()) - 1)
        self.at(min(self.now + wait_s, called.deadline), partial(self._try, called))

    def _over(self, called: Called, ending: Ending, at: float) -> None:
        assert self._endings[called.index] < 0, "a call ends once"
        self._ended_s[called.index] = at
        self._endings[called.index] = ENDINGS.index(ending)
        self._attempts[called.index] = called.attempts

    def _result(self, calls: Calls) -> FleetResult:
        assert calls.times_s is not None
        worked_until = [replica.clock.worked_until for replica in self.replicas]
        seconds = max([self._ended_s.max(initial=0.0), *worked_until])
        granted = [
            replica.cores * (min(replica.ended, seconds) - replica.began)
            for replica in self.replicas
            if replica.began < seconds
        ]
        return FleetResult(
            made_s=calls.times_s,
            ended_s=self._ended_s,
            endings=self._endings,
            attempts=self._attempts,
            sizes=calls.sizes,
            by_replica=tuple(replica.server.stats for replica in self.replicas),
            seconds=seconds,
            granted_core_s=sum(granted),
            used_core_s=sum(replica.clock.worked_s for replica in self.replicas),
        )


def simulate_fleet(
    model: FleetModel, calls: Calls, plan: Sequence[Callable[[Fleet], None]] = ()
) -> FleetResult:
    """What a fleet would do.

    Args:
        model: What it is taken for.
        calls: Of an open loop.
        plan: What else happens: each is given the fleet at the beginning.
    """
    fleet = Fleet(model)
    for each in plan:
        each(fleet)
    return fleet.run(calls)
