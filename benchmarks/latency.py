"""Throughput against p99 by policy: calls of one sequence arrive at random, answered or not.

Arrivals are Poisson; a latency counts from the moment a call was meant to leave, so that a server
that stalls is charged for every call that would have come meanwhile. Server on one core, load on
the other, native transport.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np

from benchmarks import figures, harness
from benchmarks.calls import CLASSIFY, Calls, p99_ms
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.server_process import CLIENT_CORE, policy_server
from benchmarks.simulation import Simulator
from benchmarks.workloads import LONG_TAILED

POLICIES = ("continuous", "padded", "bucketed")
SEQUENCES = 4_096
IN_FLIGHT = 256
"""Enough for every policy to be saturated: some full batches wait."""

PADDED_SHARE = 0.9
BUCKETED_SHARE = 0.7
"""Of what the baseline can do, measured right before in each repeat: machines have moods."""
CURVE_SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of each policy's own saturation."""

CURVE_REPEATS = 5
"""They share a point's requests."""

_ALIKE = 0.05
"""Shares of one policy that are nearer than this are one point of the curve."""
_GROWN = 5.0
"""A queue that grows: the last fifth of the calls took so many times what the first took."""


@dataclass(frozen=True)
class Point:
    """What a policy did at one rate."""

    policy: str
    share: float
    """Of the policy's own saturation."""
    rate: float
    """Calls a second, as they were to arrive; the median, where it was another in each repeat."""
    p50_ms: Spread
    p99_ms: Spread
    lateness_p99_ms: Spread
    """The generator's own part."""


def main() -> None:
    """Measures, prints and writes results/latency.json."""
    quick = harness.quick(__doc__)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL))
        calls = Calls(repository, SMALL, LONG_TAILED.sequences(SEQUENCES), size=1)
        servers = {
            policy: stack.enter_context(policy_server(repository, policy)) for policy in POLICIES
        }
        loads = {
            policy: Load(server.address, CLASSIFY, calls.messages)
            for policy, server in servers.items()
        }
        bench = _Bench(calls, loads, requests=2_000 if quick else 20_000)
        curve = replace(bench, requests=bench.requests // CURVE_REPEATS)
        repeats = 2 if quick else 5
        saturation = bench.saturation(repeats, 0.4 if quick else 1.0)
        tops = {policy: spread.median for policy, spread in saturation.items()}
        against_padded = bench.against("padded", PADDED_SHARE, tops, repeats)
        against_bucketed = bench.against("bucketed", BUCKETED_SHARE, tops, repeats)
        points = [*against_padded.points, *against_bucketed.points]
        for share in (0.5,) if quick else CURVE_SHARES:
            taken = {point.policy for point in points if abs(point.share - share) < _ALIKE}
            rates = {policy: share * top for policy, top in tops.items() if policy not in taken}
            points += curve.points(rates, tops, CURVE_REPEATS).points
        simulator = Simulator.of(repository, SMALL, servers["continuous"], IN_FLIGHT)
    simulated, said = _simulated(simulator, tops["continuous"], points, bench.requests // 2)
    points.sort(key=lambda point: (POLICIES.index(point.policy), point.rate))
    harness.show(
        f"Calls of one sequence, {LONG_TAILED.name}: Poisson arrivals",
        (
            "policy",
            "of its saturation",
            "calls a second",
            "p50, ms",
            "p99, ms",
            "left late, p99, ms",
        ),
        [
            (
                point.policy,
                f"{point.share:.2f}",
                f"{point.rate:,.0f}",
                point.p50_ms,
                point.p99_ms,
                point.lateness_p99_ms,
            )
            for point in points
        ],
    )
    table = [
        Figure("p99-padded", against_padded.ratio("continuous", "padded"), against_padded.about),
        Figure(
            "p99-bucketed",
            against_bucketed.ratio("continuous", "bucketed"),
            against_bucketed.about,
        ),
        *simulated,
    ]
    figures.show(table)
    harness.write(
        "latency",
        {
            "figures": [each.document() for each in table],
            "saturation": saturation,
            "points": [vars(point) for point in points],
            "simulator": asdict(simulator.server),
            "simulated": said,
        },
    )


@dataclass(frozen=True)
class _Taken:
    """Policies measured in turn, each at its rate."""

    points: list[Point]
    p99_ms: Mapping[str, list[float]]
    grew: Mapping[str, int]
    """In how many repeats a policy's queue did: then a p99 tells how long it was measured."""

    def ratio(self, policy: str, baseline: str) -> Spread:
        """p99 ÷ p99, repeat by repeat."""
        return ratios(self.p99_ms[policy], self.p99_ms[baseline])

    @property
    def about(self) -> str:
        """The figures behind a ratio."""
        p99 = " ÷ ".join(f"{point.p99_ms} ms" for point in self.points)
        grew = [f"the queue of {policy} grew in {times}" for policy, times in self.grew.items()]
        return "; ".join([f"{p99} at {self.points[0].rate:,.0f} calls/s", *grew])


@dataclass(frozen=True)
class _Bench:
    """Connections to a server of each policy, and the calls they make."""

    calls: Calls
    loads: Mapping[str, Load]
    requests: int
    """Calls a measurement."""

    def saturation(self, repeats: int, seconds: float) -> dict[str, Spread]:
        """Calls a second at most, by policy."""
        enough = {
            policy: self.calls.warm(load, IN_FLIGHT, seconds) for policy, load in self.loads.items()
        }
        taken = harness.in_turn(
            {
                policy: lambda policy=policy, load=load: self.calls.saturate(  # type: ignore[misc]
                    load, IN_FLIGHT, enough[policy]
                )
                for policy, load in self.loads.items()
            },
            repeats,
        )
        return {policy: Spread.of(rates) for policy, rates in taken.items()}

    def against(
        self, baseline: str, share: float, tops: Mapping[str, float], repeats: int
    ) -> _Taken:
        """The product beside a baseline, at a share of what that can do at the moment."""
        load = self.loads[baseline]
        enough = self.calls.warm(load, IN_FLIGHT, 0.5)
        taken = _Measured(self)
        for repeat in range(repeats):
            top = self.calls.saturate(load, IN_FLIGHT, enough)
            rate = share * (tops[baseline] if math.isnan(top) else top)
            policies = ("continuous", baseline)
            for policy in policies[:: -1 if repeat % 2 else 1]:
                taken.measure(policy, rate, repeat)
        return taken.told(tops)

    def points(self, rates: Mapping[str, float], tops: Mapping[str, float], repeats: int) -> _Taken:
        """Each policy at its rate, in turn; the same arrivals for all in the same repeat."""
        taken = _Measured(self)
        for repeat in range(repeats):
            for policy in list(rates)[:: -1 if repeat % 2 else 1]:
                taken.measure(policy, rates[policy], repeat)
        return taken.told(tops)


class _Measured:
    """What was measured so far, repeat by repeat, of each policy."""

    def __init__(self, bench: _Bench) -> None:
        self._bench = bench
        self._rate: defaultdict[str, list[float]] = defaultdict(list)
        self._p50: defaultdict[str, list[float]] = defaultdict(list)
        self._p99: defaultdict[str, list[float]] = defaultdict(list)
        self._late: defaultdict[str, list[float]] = defaultdict(list)
        self._grew: Counter[str] = Counter()

    def measure(self, policy: str, rate: float, seed: int) -> None:
        """Sends calls of one policy's server, at a rate."""
        bench = self._bench
        answered = bench.calls.arrive(bench.loads[policy], rate, bench.requests, seed)
        self._rate[policy].append(rate)
        self._p50[policy].append(median(answered.latencies_s) * 1e3)
        self._late[policy].append(float(np.percentile(answered.lateness_s, 99)) * 1e3)
        self._p99[policy].append(p99_ms(answered))
        first, *_, last = np.array_split(answered.latencies_s, 5)
        self._grew[policy] += int(np.median(last) > _GROWN * np.median(first))

    def told(self, tops: Mapping[str, float]) -> _Taken:
        """All of it."""
        points = [
            Point(
                policy,
                median(rates) / tops[policy],
                median(rates),
                Spread.of(self._p50[policy]),
                Spread.of(self._p99[policy]),
                Spread.of(self._late[policy]),
            )
            for policy, rates in self._rate.items()
        ]
        return _Taken(points, self._p99, +self._grew)


def _simulated(
    simulator: Simulator, top: float, points: list[Point], calls: int
) -> tuple[list[Figure], list[dict[str, float]]]:
    """How far the simulator is off, at saturation and at each point, and what it said there."""
    throughput = simulator.throughput(LONG_TAILED, IN_FLIGHT)
    said = [
        {
            "rate": point.rate,
            "simulated_p99_ms": simulator.p99_ms(LONG_TAILED, point.rate, calls),
            "measured_p99_ms": point.p99_ms.median,
        }
        for point in points
        if point.policy == "continuous"
    ]
    offs = [_factor(each["simulated_p99_ms"], each["measured_p99_ms"]) for each in said]
    table = [
        Figure(
            "simulated-throughput",
            Spread.of([_factor(throughput, top)]),
            f"{throughput:,.0f} simulated, {top:,.0f} measured",
        ),
        Figure("simulated-p99", Spread.of(offs), f"{len(offs)} rates"),
    ]
    return table, said


def _factor(simulated: float, measured: float) -> float:
    return max(simulated / measured, measured / simulated)


if __name__ == "__main__":
    main()
