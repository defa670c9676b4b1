"""Versions that come and go, again and again: what memory, descriptors and threads are left by it.

Each cycle publishes a version, serves calls with it, and takes the version before away. Memory is
that of the server without the process that tries versions, at the end against the level after a few
cycles: what a process fills once, and keeps, is no leak.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmarks.models import publish_random
from benchmarks.server_process import TRANSPORTS, Server
from benchmarks.workloads import FEATURES, LONG_TAILED, LONGEST_STEPS
from seqserve import ragged
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve_export.network import NetworkConfig
from tests.campaigns import harness
from tests.campaigns.harness import Claims
from tests.campaigns.reload import Shelf

MODEL = "lstm-256"
NETWORK = NetworkConfig(features=FEATURES, classes=9, hidden_size=256)
CYCLES = 200
SETTLED = 10
"""Cycles before the level is taken, and over which it is: the median of so many."""
CALLS = 8
MOST_GROWTH = 0.10
POLL_S = 0.02
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Level:
    """What a server holds."""

    resident_mib: float
    descriptors: int
    threads: int


def main() -> None:
    """Measures, prints and writes results/reload_memory.json."""
    parser = harness.parser(__doc__)
    parser.add_argument("--cycles", type=int, default=0, help=f"{CYCLES} by default")
    options = parser.parse_args()
    cycles = options.cycles or (3 * SETTLED if options.quick else CYCLES)
    claims, figures = Claims(), {}
    for transport in [options.transport] if options.transport else TRANSPORTS:
        with serving(transport) as cycle:
            levels = [cycle() for _ in range(cycles)]
        hold(claims, transport, levels)
        figures[transport] = [vars(each) for each in levels[:: max(1, len(levels) // 20)]]
    harness.finish("reload_memory", f"{cycles} versions, one after the other", claims, figures)


@contextmanager
def serving(transport: str) -> Iterator[Callable[[], Level]]:
    """A server that polls; what to call for one cycle, and told what the server holds after it."""
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        publish_random(repository, MODEL, NETWORK, LONGEST_STEPS)
        with (
            Server(repository, transport, None, ("--poll", str(POLL_S))) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            yield partial(_cycle, server, Shelf(repository, MODEL, server), channel)


def _cycle(server: Server, shelf: Shelf, channel: grpc.Channel) -> Level:
    shelf.publish(shelf.prepare())
    # Nobody calls meanwhile: the version is tried behind all others.
    _wait_until_serving(channel, f"{MODEL}/{shelf.newest}")
    request = ClassifyRequest(model_name=MODEL, sequences=ragged.encode(LONG_TAILED.sequences(64)))
    for _ in range(CALLS):
        answer = SequenceClassifierStub(channel).Classify(request, timeout=PATIENCE_S)
        if answer.model_version != shelf.newest:
            raise RuntimeError(f"version {answer.model_version} answers, not {shelf.newest}")
    shelf.clear()
    return level(server)


def _wait_until_serving(channel: grpc.Channel, version: str) -> None:
    watch = HealthStub(channel).Watch(HealthCheckRequest(service=version), timeout=PATIENCE_S)
    while next(watch).status != HealthCheckResponse.SERVING:
        pass
    watch.cancel()


def level(server: Server) -> Level:
    """What it holds now."""
    status = Path(f"/proc/{server._process.pid}/status").read_text(encoding="ascii")
    [threads] = re.findall(r"Threads:\s+(\d+)", status)
    return Level(server.resident_mib(), server.descriptors(), int(threads))


def hold(claims: Claims, where: str, levels: list[Level]) -> None:
    """Compares the end with the level that was reached soon."""
    first, last = levels[SETTLED : 2 * SETTLED], levels[-SETTLED:]
    begin = statistics.median(each.resident_mib for each in first)
    end = statistics.median(each.resident_mib for each in last)
    growth = end / begin - 1
    found = f"{growth:+.1%} ({begin:.0f} → {end:.0f} MiB)"
    claims.hold(where, f"memory grows ≤ {MOST_GROWTH:.0%}", found, growth <= MOST_GROWTH)
    for name in ("descriptors", "threads"):
        # The process that tries versions may be there or not, at the moment that is looked at: a
        # leak raises the least of them as well.
        before = min(getattr(each, name) for each in first)
        after = min(getattr(each, name) for each in last)
        claims.hold(where, f"{name} level", f"{before} → {after}", after <= before)


if __name__ == "__main__":
    main()
