"""Throughput against p99 by policy: calls of one sequence arrive at random, answered or not.

Arrivals are Poisson; a latency counts from the moment a call was meant to leave, so that a server
that stalls is charged for every call that would have come meanwhile. Server on one core, load on
the other, native transport.
"""

from __future__ import annotations

import os
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
CURVE_SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of each policy's own saturation."""

CURVE_REPEATS = 3
"""They share a point's requests."""


@dataclass(frozen=True)
class Point:
    """What a policy did at one rate."""

    policy: str
    share: float
    """Of the policy's own saturation."""
    rate: float
    """Calls a second, as they were to arrive."""
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
        rate = PADDED_SHARE * tops["padded"]
        against_padded = bench.points({"continuous": rate, "padded": rate}, tops, repeats)
        rate = BUCKETED_SHARE * tops["bucketed"]
        against_bucketed = bench.points({"continuous": rate, "bucketed": rate}, tops, repeats)
        points = [*against_padded.points, *against_bucketed.points]
        for share in (0.5,) if quick else CURVE_SHARES:
            taken = {(point.policy, round(point.share, 3)) for point in points}
            rates = {
                policy: share * top for policy, top in tops.items() if (policy, share) not in taken
            }
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

    def ratio(self, policy: str, baseline: str) -> Spread:
        """p99 ÷ p99, repeat by repeat."""
        return ratios(self.p99_ms[policy], self.p99_ms[baseline])

    @property
    def about(self) -> str:
        """The figures behind a ratio."""
        p99 = " ÷ ".join(f"{point.p99_ms} ms" for point in self.points)
        return f"{p99} at {self.points[0].rate:,.0f} calls/s"


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

    def points(self, rates: Mapping[str, float], tops: Mapping[str, float], repeats: int) -> _Taken:
        """Each policy at its rate, in turn; the same arrivals for all in the same repeat."""
        p50: dict[str, list[float]] = {policy: [] for policy in rates}
        late: dict[str, list[float]] = {policy: [] for policy in rates}

        def measure(policy: str) -> float:
            seed = len(p50[policy])
            answered = self.calls.arrive(self.loads[policy], rates[policy], self.requests, seed)
            p50[policy].append(median(answered.latencies_s) * 1e3)
            late[policy].append(float(np.percentile(answered.lateness_s, 99)) * 1e3)
            return p99_ms(answered)

        p99 = harness.in_turn(
            {policy: lambda policy=policy: measure(policy) for policy in rates},  # type: ignore[misc]
            repeats,
        )
        points = [
            Point(
                policy,
                rate / tops[policy],
                rate,
                Spread.of(p50[policy]),
                Spread.of(p99[policy]),
                Spread.of(late[policy]),
            )
            for policy, rate in rates.items()
        ]
        return _Taken(points, p99)


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
