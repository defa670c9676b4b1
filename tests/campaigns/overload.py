"""Ten times what a server can do, with deadlines: what it still answers, and what refusing costs.

Load arrives at random moments whatever becomes of earlier calls, on several connections, each call
with a deadline. Goodput is what is answered within it. A server that refuses goes on to answer as
much as it can; how much that is hangs on what a refusal costs beside a call. Both stand in the
table; a call is of 16 sequences of a model large enough for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import numpy as np

from benchmarks.calls import CLASSIFY, Calls
from benchmarks.harness import Spread
from benchmarks.load import Answered, Load
from benchmarks.models import publish_random
from benchmarks.server_process import CLIENT_CORE, TRANSPORTS, Server
from benchmarks.workloads import FEATURES, LONG_TAILED, LONGEST_STEPS
from seqserve_export.network import NetworkConfig
from tests.campaigns import counted, harness
from tests.campaigns.harness import Claims
from tests.campaigns.prober import Probed, probing

MODEL = "lstm-512x2"
NETWORK = NetworkConfig(features=FEATURES, classes=9, hidden_size=512, num_layers=2)
SIZE = 16
DEADLINE_S = 1.5
CONNECTIONS = 8
TIMES = 10
QUEUE_STEPS = 524_288
_HOPELESS_MS = 1
_EXPECTED = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"}
"""How calls end, with more of them than can be done in time."""
_MIB = 1 << 20
_STEP_BYTES = 4 * FEATURES
_SAMPLE_S = 0.02


@dataclass(frozen=True)
class Point:
    """What became of one rate."""

    rate: float
    """Calls a second."""
    goodput: float
    """Calls a second that were answered within their deadline."""
    kept: float
    """Of the calls that were admitted, how many met their deadline."""
    refused: float
    """How many of all were refused."""
    resident_mib: float
    """The most memory that the server held."""


def main() -> None:
    """Measures, prints and writes results/overload.json."""
    options = harness.parser(__doc__).parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    claims, figures = Claims(), {}
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        publish_random(repository, MODEL, NETWORK, LONGEST_STEPS)
        for transport in [options.transport] if options.transport else TRANSPORTS:
            figures[transport] = overload(repository, transport, claims, quick=options.quick)
    harness.finish(
        "overload", f"{TIMES} × the sustainable rate, {SIZE} sequences a call", claims, figures
    )


def overload(repository: Path, transport: str, claims: Claims, *, quick: bool) -> dict[str, Any]:
    """Overloads one server."""
    seconds, repeats = (6.0, 1) if quick else (12.0, 3)
    options = ("--max-queue-steps", str(QUEUE_STEPS))
    with ExitStack() as stack:
        server = stack.enter_context(Server(repository, transport, options=options))
        calls = Calls(repository, MODEL, LONG_TAILED.sequences(SIZE * 40), SIZE)
        load = Load(server.address, CLASSIFY, calls.messages)
        calls.warm(load, 4, 1.0)
        sustainable = calls.saturate(load, 4, calls.warm(load, 4, 1.0)) / SIZE
        timed = Load(
            server.address,
            CLASSIFY,
            calls.messages,
            [("grpc-timeout", f"{DEADLINE_S * 1e3:.0f}m")],
            connections=CONNECTIONS,
        )
        before_mib = server.resident_mib()
        points: dict[float, list[Point]] = {1.0: [], 1.5: [], float(TIMES): []}
        probed = []
        for repeat in range(repeats):
            for times, taken in points.items():
                with probing(server.address, calls.messages[0], DEADLINE_S) as found:
                    taken.append(_point(server, timed, sustainable * times, seconds, repeat))
                if times == TIMES:
                    probed.append(found)
        refusal_ms = _refusal_ms(server, calls, 500)
        ends = counted.calls(server, "Classify")
    strange = {code: count for code, count in ends.items() if code not in _EXPECTED}
    claims.hold(transport, "calls that ended otherwise: 0", strange or 0, not strange)
    _hold(claims, transport, points, probed, refusal_ms, before_mib)
    refusals_ms = [1e3 * took for found in probed for took in found.refusals_s()]
    return {
        "sustainable": sustainable,
        "points": {times: [vars(point) for point in taken] for times, taken in points.items()},
        "calls": dict(ends),
        "refusal_ms": refusal_ms,
        # As a Python client sees it under the load, its own part included.
        "refusal_beside_ms": Spread.of(refusals_ms),
    }


def _point(server: Server, load: Load, rate: float, seconds: float, seed: int) -> Point:
    rng = np.random.default_rng(seed)
    times_s = rng.exponential(1 / rate, int(rate * seconds)).cumsum()
    which = rng.integers(0, load.messages, len(times_s))
    with _most_resident(server) as resident:
        answered = load.open_loop(times_s, which)
    return _judged(answered, rate, resident)


def _judged(answered: Answered, rate: float, resident: list[float]) -> Point:
    in_time = answered.latencies_s <= DEADLINE_S
    # Whoever waited for the whole deadline was let in, or waited to be: both is the server's doing.
    refused = np.isinf(answered.latencies_s) & (answered.over_s < DEADLINE_S)
    admitted = ~refused
    return Point(
        rate=rate,
        goodput=in_time.sum() / answered.seconds,
        kept=in_time[admitted].mean() if admitted.any() else 1.0,
        refused=refused.mean(),
        resident_mib=max(resident),
    )


def _refusal_ms(server: Server, calls: Calls, count: int) -> tuple[float, float]:
    """Of a call that cannot be done by its deadline, the server's processor time, and the time."""
    hopeless = Load(
        server.address, CLASSIFY, calls.messages, [("grpc-timeout", f"{_HOPELESS_MS}m")]
    )
    which = np.arange(count) % len(calls.messages)
    before = server.cpu_seconds()
    answered = hopeless.closed_loop(which, 1)
    assert answered.failed == count, "a call was answered that could not be"
    cpu_ms = (server.cpu_seconds() - before) / count * 1e3
    return cpu_ms, float(np.median(answered.over_s)) * 1e3


def _hold(
    claims: Claims,
    transport: str,
    points: dict[float, list[Point]],
    probed: list[Probed],
    refusal_ms: tuple[float, float],
    before_mib: float,
) -> None:
    over = points[TIMES]
    ratios = [
        point.goodput / max(taken[repeat].goodput for taken in points.values())
        for repeat, point in enumerate(over)
    ]
    goodput = Spread.of(ratios)
    claims.hold(transport, "goodput ÷ its peak ≥ 0.9", goodput, goodput.median >= 0.9)
    kept = min(point.kept for point in over)
    claims.hold(transport, "admitted calls in time ≥ 0.99", f"{kept:.4f}", kept >= 0.99)
    claims.hold(transport, "refused", f"{over[0].refused:.0%}", over[0].refused > 0.5)
    most, bound = max(point.resident_mib for point in over), before_mib + _bound_mib()
    claims.hold(transport, f"memory ≤ {bound:.0f} MiB", f"{most:.0f} MiB", most <= bound)
    cpu_ms, took_ms = refusal_ms
    claims.hold(transport, "CPU of a refusal < 1 ms", f"{cpu_ms:.2f} ms", cpu_ms < 1)
    claims.hold(transport, "time to a refusal < 1 ms", f"{took_ms:.2f} ms", took_ms < 1)
    refusals = [took for found in probed for took in found.refusals_s()]
    claims.hold(transport, "calls refused beside it", len(refusals), bool(refusals))
    retries = [retry for found in probed for retry in found.retries_s()]
    claims.hold(
        transport, "refusals with RetryInfo: all", f"{sum(map(bool, retries))}", all(retries)
    )
    health = float(np.percentile([each for found in probed for each in found.health_s], 99)) * 1e3
    claims.hold(transport, "Health.Check p99 ≤ 100 ms", f"{health:.1f} ms", health <= 100)


def _bound_mib() -> float:
    """What may be under way, as it came and as the lanes hold it, and as much for all else."""
    return 2 * QUEUE_STEPS * _STEP_BYTES / _MIB + 128


@contextmanager
def _most_resident(server: Server) -> Iterator[list[float]]:
    """Looks at a server's memory again and again."""
    seen, over = [server.resident_mib()], Event()

    def look() -> None:
        while not over.wait(_SAMPLE_S):
            seen.append(server.resident_mib())

    watcher = Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


if __name__ == "__main__":
    main()
