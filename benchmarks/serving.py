"""The server over gRPC against the same batches in-process with onnxruntime on the same core.

The server and the in-process baseline are pinned to one core, the client to another, and they
take turns. The baseline is `session.run` alone on batches padded beforehand, so it pays nothing
for the wire, for checking or for padding.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import grpc
import numpy as np

from benchmarks import harness
from benchmarks.models import publish_random
from benchmarks.offline import Offline
from benchmarks.server_process import CLIENT_CORE, TRANSPORTS, Server
from seqserve import ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1 import classifier_pb2 as pb
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve_export.network import NetworkConfig

IN_FLIGHT = 4
CALLS_IN_FLIGHT = 64
MODEL = "bench"
FEATURES = 12
NETWORK = NetworkConfig(features=FEATURES, classes=9, hidden_size=64, num_layers=2)


def main() -> None:
    """Measures, prints and writes results/serving.json."""
    quick = harness.quick(__doc__)
    repeats, sequences, calls = (3, 2_560, 1_000) if quick else (5, 10_240, 6_000)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with tempfile.TemporaryDirectory() as folder:
        publish_random(Path(folder), MODEL, NETWORK)
        batches = [_batches(Path(folder), size, sequences, repeats) for size in (32, 256)]
        single = _single_calls(Path(folder), calls, repeats)
    harness.show(
        "Server over gRPC ÷ onnxruntime in-process, sequences a second, one core",
        ("transport, sequences a request", "in-process", "server", "ratio"),
        [
            (f"{r['transport']}, {r['size']}", r["in_process"], r["server"], r["ratio"])
            for group in batches
            for r in group
        ],
    )
    harness.show(
        f"One sequence of 15 steps a call, {CALLS_IN_FLIGHT} calls in flight from one core",
        ("transport", "calls a second", "server CPU a call, µs"),
        [(r["transport"], r["calls_per_second"], r["server_cpu_us"]) for r in single],
    )
    harness.write("serving", {"batches": batches, "single_calls": single})


def _batches(repository: Path, size: int, sequences: int, repeats: int) -> list[dict[str, object]]:
    batches = _ragged_batches(size, sequences // size)
    with Offline() as offline:
        servers = {name: Server(repository, name) for name in TRANSPORTS}
        measures = {"in-process": offline.as_they_come(repository, MODEL, batches).measure}
        try:
            for name, server in servers.items():
                stub = SequenceClassifierStub(_channel(server))
                requests = [_request(batch) for batch in batches]
                measures[name] = lambda stub=stub, requests=requests: (  # type: ignore[misc]
                    sequences / _seconds(stub, requests, IN_FLIGHT)
                )
                measures[name]()  # warms up connection and caches
            figures = harness.in_turn(measures, repeats)
        finally:
            for server in servers.values():
                server.stop()
    return [
        {
            "transport": name,
            "size": size,
            "in_process": harness.Spread.of(figures["in-process"]),
            "server": harness.Spread.of(figures[name]),
            "ratio": harness.ratios(figures[name], figures["in-process"]),
        }
        for name in TRANSPORTS
    ]


def _single_calls(repository: Path, calls: int, repeats: int) -> list[dict[str, object]]:
    sequence = np.random.default_rng(0).standard_normal((15, FEATURES), np.float32)
    requests = [_request(RaggedBatch.from_sequences([sequence]))] * calls
    servers = {name: Server(repository, name) for name in TRANSPORTS}
    cpu: dict[str, list[float]] = {name: [] for name in TRANSPORTS}

    def measure(name: str, stub: SequenceClassifierStub) -> float:
        before = servers[name].cpu_seconds()
        seconds = _seconds(stub, requests, CALLS_IN_FLIGHT)
        cpu[name].append((servers[name].cpu_seconds() - before) / calls * 1e6)
        return calls / seconds

    try:
        stubs = {name: SequenceClassifierStub(_channel(s)) for name, s in servers.items()}
        for stub in stubs.values():
            _seconds(stub, requests[:200], CALLS_IN_FLIGHT)
        figures = harness.in_turn(
            {name: lambda name=name: measure(name, stubs[name]) for name in TRANSPORTS},  # type: ignore[misc]
            repeats,
        )
    finally:
        for server in servers.values():
            server.stop()
    return [
        {
            "transport": name,
            "calls_per_second": harness.Spread.of(figures[name]),
            "server_cpu_us": harness.Spread.of(cpu[name]),
        }
        for name in TRANSPORTS
    ]


def _seconds(
    stub: SequenceClassifierStub, requests: list[pb.ClassifyRequest], in_flight: int
) -> float:
    """Seconds until every request is answered, `in_flight` of them under way at a time."""
    start = time.perf_counter()
    running: deque[Future[pb.ClassifyResponse]] = deque()
    for request in requests:
        if len(running) == in_flight:
            running.popleft().result()
        running.append(stub.Classify.future(request))  # type: ignore[arg-type]
    for call in running:
        call.result()
    return time.perf_counter() - start


def _channel(server: Server) -> grpc.Channel:
    return grpc.insecure_channel(
        server.address,
        [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
    )


def _request(batch: RaggedBatch) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model_name=MODEL, sequences=ragged.encode(batch))


def _ragged_batches(size: int, count: int) -> list[RaggedBatch]:
    """Batches like JapaneseVowels': 7 to 29 steps."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(7, 30, (count, size))
    return [
        RaggedBatch(rng.standard_normal((int(row.sum()), FEATURES), np.float32), row)
        for row in lengths
    ]


if __name__ == "__main__":
    main()
