"""Interactive calls beside a bulk job that takes all the rest: what they notice of it.

Interactive calls of one sequence arrive at random, at a moderate rate. The bulk job, of the bulk
service class, keeps 16 requests of 32 sequences in flight from a process of its own, which gives
way to the interactive calls' generator on the core that they share.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import ExitStack
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks import figures, harness, stats
from benchmarks.calls import CLASSIFY, Calls, p99_ms
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.server_process import CLIENT_CORE, server_with_stats
from benchmarks.workloads import LONG_TAILED
from seqserve.v1 import classifier_pb2 as pb

SHARE = 0.3
"""Of the calls of one sequence that the server can answer."""

INTERACTIVE_IN_FLIGHT = 64
BULK_SIZE, BULK_IN_FLIGHT = 32, 16
BULK_NICENESS = 10


def main() -> None:
    """Measures, prints and writes results/bulk.json."""
    quick = harness.quick(__doc__)
    repeats, requests = (2, 2_000) if quick else (5, 20_000)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL))
        server = stack.enter_context(server_with_stats(repository))
        sequences = LONG_TAILED.sequences(4_096)
        calls = Calls(repository, SMALL, sequences, 1, pb.SERVICE_CLASS_INTERACTIVE)
        load = Load(server.address, CLASSIFY, calls.messages)
        enough = calls.warm(load, INTERACTIVE_IN_FLIGHT, 1.0)
        rate = SHARE * calls.saturate(load, INTERACTIVE_IN_FLIGHT, enough)
        job = stack.enter_context(BulkJob(repository, server.address))
        bulk: list[float] = []
        idle: list[float] = []
        alone_seeds, beside_seeds = count(), count()  # the same arrivals for both

        def alone() -> float:
            return p99_ms(calls.arrive(load, rate, requests, next(alone_seeds)))

        def beside() -> float:
            job.start()
            before = len(server.printed)
            answered = calls.arrive(load, rate, requests, next(beside_seeds))
            # The first interval began before.
            lines = stats.read(server.printed[before:])[1:]
            idle.extend(each.share_idle for each in lines)
            bulk.append(job.stop())
            return p99_ms(answered)

        job.start()
        job.stop()  # warms up
        taken = harness.in_turn({"alone": alone, "beside": beside}, repeats)
        job.start()
        time.sleep(1.0)
        bulk_alone = job.stop()
    spread = {name: Spread.of(each) for name, each in taken.items()}
    ratio = ratios(taken["beside"], taken["alone"])
    harness.show(
        f"Interactive calls, {LONG_TAILED.name}, {rate:,.0f} a second ({SHARE} of saturation)",
        ("", "p99, ms", "bulk sequences a second"),
        [
            ("alone", spread["alone"], ""),
            ("beside bulk", spread["beside"], Spread.of(bulk)),
            ("bulk alone", "", f"{bulk_alone:,.0f}"),
        ],
    )
    note = f"at {rate:,.0f} interactive calls/s; the lane idle {Spread.of(idle)} of the time"
    table = [Figure("bulk", ratio, note)]
    figures.show(table)
    harness.write(
        "bulk",
        {
            "figures": [each.document() for each in table],
            "rate": rate,
            "share": SHARE,
            "p99_ms": spread,
            "bulk_sequences_per_second": Spread.of(bulk),
            "bulk_alone_sequences_per_second": bulk_alone,
            "idle": Spread.of(idle),
        },
    )


class BulkJob:
    """Bulk requests from a process of its own, from `start` to `stop`.

    Args:
        repository: The model repository.
        address: Of the server.
    """

    def __init__(self, repository: Path, address: str) -> None:
        self._here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=_work, args=(repository, address, there), daemon=True
        )
        self._process.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()

    def start(self) -> None:
        """Returns once it sends."""
        self._here.send(True)
        self._here.recv()

    def stop(self) -> float:
        """Ends what is under way; returns sequences a second."""
        self._here.send(True)
        return float(self._here.recv())


def _work(repository: Path, address: str, pipe: Connection) -> None:
    os.sched_setaffinity(0, {CLIENT_CORE})
    os.nice(BULK_NICENESS)
    sequences = LONG_TAILED.sequences(2_048)
    calls = Calls(repository, SMALL, sequences, BULK_SIZE, pb.SERVICE_CLASS_BULK)
    load = Load(address, CLASSIFY, calls.messages)
    which = np.arange(4 * len(calls.messages)) % len(calls.messages)
    while True:
        pipe.recv()
        pipe.send(None)
        begin, answered = time.perf_counter(), 0
        while not pipe.poll():
            calls.check(load.closed_loop(which, BULK_IN_FLIGHT, keep=[0]), which)
            answered += 4 * len(sequences)
        pipe.recv()
        pipe.send(answered / (time.perf_counter() - begin))


if __name__ == "__main__":
    main()
