"""What a server would do under given traffic: its policy, run under a virtual clock.

The server's own `Pool` and `Admission` decide; `virtual_server` says what takes time and what is
left out. Equal arguments give equal results, to the last bit.

    server = ServerModel(cost=runner.cost.now, lanes=4, call_s=50e-6)
    result = simulate([Calls.poisson(lengths, rate=5_000, calls=20_000)], server)
    print(result.calls[0].latency_s(0.99), result.stats.useful_fraction)

The pool is real and takes real time: some 100 to 400 µs a turn, and 20 to 40 µs a call beside
it. So a simulation does 4,000 sequences a second of real time where each comes alone to an idle
server, 20,000 near its capacity, and 100,000 where calls have 32 sequences (one core of 2025,
shared). Days of traffic are therefore sampled: `day` simulates each rate of a load curve for as
many calls as its quantiles need, and weights it by the calls it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.stats import Stats
from seqserve_server.scheduling.virtual_server import (
    Call,
    Fate,
    MakePolicy,
    ServerModel,
    VirtualServer,
    VirtualTime,
    make_pool,
)
from seqserve_server.scheduling.work import ServiceClass

_FATES = tuple(Fate)


@dataclass(frozen=True, eq=False)
class Calls:
    """Calls of one kind, in the order in which they are made.

    `poisson` and `closed` draw them from a distribution; a trace is given as it is.

    Raises:
        ValueError: the arrays do not fit together.
    """

    lengths: NDArray[np.int64]
    """(sequences,), steps of each, call after call."""
    sizes: NDArray[np.int64]
    """(calls,), sequences of each."""
    times_s: NDArray[np.float64] | None = None
    """(calls,), ascending: when each is made, answered or not. None for a closed loop."""
    callers: int = 1
    """Of a closed loop: each makes its next call when its last one has ended."""
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    """How urgent they are."""
    timeout_s: float = math.inf
    """How long a caller waits."""

    def __post_init__(self) -> None:
        if self.sizes.min(initial=1) < 1 or self.lengths.min(initial=1) < 1:
            raise ValueError("a call has at least one sequence, and a sequence at least one step")
        if self.sizes.sum() != len(self.lengths):
            raise ValueError(
                f"the sizes add up to {self.sizes.sum()} sequences, not {len(self.lengths)}"
            )
        if self.times_s is not None and len(self.times_s) != len(self.sizes):
            raise ValueError(f"{len(self.times_s)} times for {len(self.sizes)} calls")

    @classmethod
    def poisson(
        cls,
        lengths: NDArray[np.int64],
        rate: float,
        calls: int,
        *,
        size: int = 1,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        timeout_s: float = math.inf,
        seed: int = 0,
    ) -> Calls:
        """Calls that arrive at random, whatever becomes of those before.

        Args:
            lengths: Steps to draw from, as in a sample of real sequences.
            rate: Calls a second.
            calls: How many.
            size: Sequences of each.
            service_class: How urgent they are.
            timeout_s: How long a caller waits.
            seed: Of the draw.
        """
        rng = np.random.default_rng(seed)
        times_s = rng.exponential(1 / rate, calls).cumsum()
        drawn, sizes = rng.choice(lengths, calls * size), np.full(calls, size)
        return cls(drawn, sizes, times_s, 1, service_class, timeout_s)

    @classmethod
    def closed(
        cls,
        lengths: NDArray[np.int64],
        callers: int,
        calls: int,
        *,
        size: int = 1,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        timeout_s: float = math.inf,
        seed: int = 0,
    ) -> Calls:
        """Calls of so many callers, each one call at a time; otherwise as `poisson`.

        With enough callers they show the most that a server can do.
        """
        rng = np.random.default_rng(seed)
        drawn, sizes = rng.choice(lengths, calls * size), np.full(calls, size)
        return cls(drawn, sizes, None, callers, service_class, timeout_s)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of calls, in the order in which they were made."""

    made_s: NDArray[np.float64]
    """(calls,), when each was made."""
    ended_s: NDArray[np.float64]
    """(calls,), when its caller knew."""
    fates: NDArray[np.int8]
    sizes: NDArray[np.int64]
    """(calls,), sequences of each."""
    at_once: int
    """How many were under way from the start: callers of a closed loop, otherwise 0."""

    def count(self, fate: Fate) -> int:
        """How many ended so."""
        return int(np.count_nonzero(self.fates == _FATES.index(fate)))

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(calls,), which were."""
        answered: NDArray[np.bool_] = self.fates == _FATES.index(Fate.ANSWERED)
        return answered

    @property
    def latencies_s(self) -> NDArray[np.float64]:
        """(calls,), from call to answer; infinite without an answer."""
        return np.where(self.answered, self.ended_s - self.made_s, np.inf)

    def latency_s(self, quantile: float) -> float:
        """A quantile of the latencies; a call without an answer counts as infinitely late."""
        return _quantile(self.latencies_s, np.ones(len(self.fates)), quantile)

    @property
    def sequences_per_s(self) -> float:
        """Sequences answered a second; of a closed loop, between its ramps."""
        ended = self.ended_s[self.answered]
        order = np.argsort(ended, kind="stable")
        ended, sizes = ended[order], self.sizes[self.answered][order]
        first, last = self.at_once, len(ended) - 1 - self.at_once
        if first < last:
            begin, end, sequences = ended[first], ended[last], sizes[first + 1 : last + 1].sum()
        else:  # too few calls to leave the ramps out
            begin, end, sequences = self.made_s.min(initial=0), ended.max(initial=0), sizes.sum()
        return float(sequences / (end - begin)) if end > begin else math.nan


@dataclass(frozen=True, eq=False)
class Result:
    """What a simulation showed."""

    calls: tuple[Outcome, ...]
    """For each kind of calls, in the order in which they were given."""
    stats: Stats
    """The counters of the lanes, as a server has them."""
    seconds: float
    """Until every call had ended and every thread was at rest, in virtual time."""
    lanes_busy: float
    """Of their time, what the lanes spent on turns, waiting for interpreter and core included."""
    transport_busy: float
    """Of its time, what the transport was at work."""
    cores_busy: float
    """Of the processor time there was, what was used."""

    @property
    def sequences_per_s(self) -> float:
        """Sequences answered a second, of all kinds, idle time included."""
        return self.stats.sequences / self.seconds if self.seconds else math.nan

    @property
    def steps_per_s(self) -> float:
        """The steps a second that they asked for."""
        return self.stats.steps / self.seconds if self.seconds else math.nan


def simulate(
    traffic: Sequence[Calls], server: ServerModel, policy: MakePolicy = make_pool
) -> Result:
    """What a server would do.

    Args:
        traffic: Kinds of calls; each begins at 0 and keeps its own order.
        server: What it is taken for.
        policy: Decides what runs next; the server's own by default.
    """
    cores = server.lanes if server.cores is None else server.cores
    clock = VirtualTime(cores)
    virtual = VirtualServer(server, clock, policy)
    callers = [_Callers(calls, virtual, clock, server.latency_s) for calls in traffic]
    for each in callers:
        each.begin()
    clock.run()
    outcomes = tuple(each.outcome() for each in callers)
    ended_s = [float(each.ended_s.max(initial=0)) for each in outcomes]
    seconds = max([clock.worked_until, *ended_s])
    whole = seconds or math.inf
    stats = virtual.stats
    return Result(
        calls=outcomes,
        stats=stats,
        seconds=seconds,
        lanes_busy=(stats.run_s + stats.around_s) / (server.lanes * whole),
        transport_busy=virtual.transport_s / whole,
        cores_busy=clock.worked_s / (cores * whole),
    )


def capacity(
    traffic: Callable[[float], Sequence[Calls]],
    server: ServerModel,
    *,
    latency_s: float,
    quantile: float = 0.99,
    highest: float,
    tolerance: float = 0.02,
    policy: MakePolicy = make_pool,
) -> float:
    """The highest rate at which the first kind of calls keeps its latency; 0 where none does.

    By bisection, and so for latencies that grow with the rate: about ten simulations.

    Args:
        traffic: The calls at a rate; enough of them for the quantile, some 100 / (1 - quantile).
        server: What the server is taken for.
        latency_s: What the quantile of the latencies must not exceed.
        quantile: Which one.
        highest: Beyond what rate not to look.
        tolerance: How exactly, as a part of `highest`.
        policy: As for `simulate`.
    """

    def keeps(rate: float) -> bool:
        return simulate(traffic(rate), server, policy).calls[0].latency_s(quantile) <= latency_s

    if keeps(highest):
        return highest
    low, high = 0.0, highest
    while high - low > tolerance * highest:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


@dataclass(frozen=True, eq=False)
class Day:
    """What a load curve showed, rate by rate."""

    rates: tuple[float, ...]
    """Of the curve's slices."""
    results: tuple[Result, ...]
    """One a slice; slices of equal rate share theirs."""

    def latency_s(self, quantile: float) -> float:
        """A quantile of the latencies of the first kind of calls, over all slices.

        Each slice weighs as many calls as it stands for.
        """
        latencies = [result.calls[0].latencies_s for result in self.results]
        weights = [
            np.full(len(each), rate / len(each))
            for rate, each in zip(self.rates, latencies, strict=True)
        ]
        return _quantile(np.concatenate(latencies), np.concatenate(weights), quantile)

    @property
    def lanes_busy(self) -> float:
        """On average over the slices."""
        return float(np.mean([result.lanes_busy for result in self.results]))


def day(
    rates: Sequence[float],
    traffic: Callable[[float], Sequence[Calls]],
    server: ServerModel,
    policy: MakePolicy = make_pool,
) -> Day:
    """A load curve, sampled: each of its rates is simulated for as many calls as `traffic` gives.

    A slice begins with an empty server and keeps its rate, so what one slice leaves behind for the
    next is not seen. Where no slice comes near the server's capacity that is seconds of a day;
    where one goes beyond it, only its own calls show it.

    Args:
        rates: Of slices of equal duration, above 0: 24 for a day by the hour.
        traffic: The calls at a rate, enough of them for the quantiles wanted.
        server: What it is taken for.
        policy: As for `simulate`.
    """
    simulated = {rate: simulate(traffic(rate), server, policy) for rate in dict.fromkeys(rates)}
    return Day(tuple(rates), tuple(simulated[rate] for rate in rates))


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], quantile: float) -> float:
    """The least value that such a part of the weight does not exceed; NaN without any."""
    if not len(values):
        return math.nan
    order = np.argsort(values, kind="stable")
    summed = weights[order].cumsum()
    # Sums are not exact: a part of a millionth of a call is none.
    place = int(np.searchsorted(summed, (quantile - 1e-9) * summed[-1]))
    return float(values[order][min(place, len(values) - 1)])


class _Callers:
    """Makes calls of one kind, and notes what becomes of each."""

    def __init__(
        self, calls: Calls, server: VirtualServer, clock: VirtualTime, latency_s: float
    ) -> None:
        self._calls = calls
        self._server = server
        self._clock = clock
        self._way_s = latency_s / 2
        self._offsets = np.concatenate([[0], calls.sizes.cumsum()]).tolist()
        self._next = 0
        self._made_s = np.full(len(calls.sizes), np.nan)
        self._ended_s = np.full(len(calls.sizes), np.nan)
        self._fates = np.full(len(calls.sizes), -1, np.int8)

    def begin(self) -> None:
        """Makes the first calls; the others follow."""
        if self._calls.times_s is not None:
            self._follow()
        else:
            for _ in range(self._calls.callers):
                self._make(0.0)

    def outcome(self) -> Outcome:
        """Once all is over."""
        calls = self._calls
        at_once = calls.callers if calls.times_s is None else 0
        return Outcome(self._made_s, self._ended_s, self._fates, calls.sizes, at_once)

    def _follow(self) -> None:
        """Of an open loop: waits for the moment of the next call."""
        times_s = self._calls.times_s
        assert times_s is not None
        if self._next < len(times_s):
            self._make(float(times_s[self._next]), self._follow)

    def _make(self, at: float, then: Callable[[], None] | None = None) -> None:
        """Makes the next call, if there is one left."""
        index = self._next
        if index == len(self._fates):
            return
        self._next += 1
        self._made_s[index] = at
        call = Call(
            self._calls.lengths[self._offsets[index] : self._offsets[index + 1]],
            self._calls.service_class,
            at + self._calls.timeout_s,
            partial(self._ended, index),
        )

        def arrive() -> None:
            self._server.receive(call)
            if then is not None:
                then()

        self._clock.at(at + self._way_s, arrive)

    def _ended(self, index: int, at: float, fate: Fate, retry_after_s: float) -> None:
        # A caller whose deadline passes knows without being told.
        known = at if fate is Fate.EXPIRED else at + self._way_s
        self._ended_s[index] = known
        self._fates[index] = _FATES.index(fate)
        if self._calls.times_s is None:
            self._make(known + retry_after_s)
