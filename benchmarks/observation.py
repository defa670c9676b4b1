"""What it costs to be watched: a call's processor time in the server, with metrics and traces."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc

from benchmarks import harness
from benchmarks.calls import CLASSIFY, Calls
from benchmarks.harness import Spread
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.server_process import CLIENT_CORE, Server, ServerProcess
from benchmarks.workloads import VOWELS

IN_FLIGHT = 64
SEQUENCES = 4_096
SCRAPE_S = 1.0
PLAIN = "nothing"


def main() -> None:
    """Measures, prints and writes results/observation.json."""
    quick = harness.quick(__doc__)
    repeats, seconds = (2, 0.5) if quick else (5, 1.0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL))
        endpoint = stack.enter_context(_collector())
        metrics = ("--metrics-address", "127.0.0.1:0")
        traces = ("--otlp-endpoint", endpoint)
        told: dict[str, tuple[Sequence[str], str]] = {
            PLAIN: ((), "1"),
            "metrics": (metrics, "1"),
            f"metrics, read every {SCRAPE_S:g} s": (metrics, "1"),
            "traces of 1 % of the calls": (traces, "0.01"),
            "traces of every call": (traces, "1"),
        }
        calls = Calls(repository, SMALL, VOWELS.sequences(SEQUENCES), size=1)
        measures = {}
        for name, (options, ratio) in told.items():
            os.environ |= {
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": ratio,
            }
            server = stack.enter_context(Server(repository, options=options))
            if "read" in name:
                stack.enter_context(_scraped(server))
            measures[name] = _cpu_of_a_call(calls, server, seconds)
        taken = harness.in_turn(measures, repeats)
    rows = [
        {
            "watched by": name,
            "cpu_us_a_call": Spread.of(each),
            "more_us": Spread.of([a - b for a, b in zip(each, taken[PLAIN], strict=True)]),
        }
        for name, each in taken.items()
    ]
    harness.show(
        f"Processor time of a call of one sequence in the server, {IN_FLIGHT} in flight, µs",
        ("watched by", "a call", "more than by nothing"),
        [tuple(row.values()) for row in rows],
    )
    harness.write("observation", rows)


def _cpu_of_a_call(calls: Calls, server: ServerProcess, seconds: float) -> harness.Measure:
    load = Load(server.address, CLASSIFY, calls.messages)
    enough = calls.warm(load, IN_FLIGHT, seconds)

    def measure() -> float:
        before = server.cpu_seconds()
        calls.saturate(load, IN_FLIGHT, enough)
        return 1e6 * (server.cpu_seconds() - before) / enough

    return measure


@contextmanager
def _scraped(server: ServerProcess) -> Iterator[None]:
    """Reads its metrics as Prometheus does, again and again."""
    [url] = {line.split()[-1] for line in server.printed if "metrics on" in line}
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_S):
            with urllib.request.urlopen(url) as response:
                response.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _collector() -> Iterator[str]:
    """Takes spans, and does nothing with them."""
    server = grpc.server(ThreadPoolExecutor(1))
    take = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"Export": take})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


if __name__ == "__main__":
    main()
