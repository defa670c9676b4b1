"""Single-sequence calls of many callers in one process: coalesced by the client against plain.

64 threads or 64 asyncio tasks call as a program would, with the client library. The process has
one core, the server the other. What the server makes of ready-made requests like those that the
callers fill is the most that coalescing can come to.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks import figures, harness
from benchmarks.calls import CLASSIFY, Calls, References, WrongAnswer
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.server_process import CLIENT_CORE, Server
from benchmarks.workloads import VOWELS
from seqserve import ragged
from seqserve.graph import Array
from seqserve_client import AsyncClient, Client, defaults
from seqserve_client.classification import Classification

CALLERS = 64
SEQUENCES = 512
PLAIN = {"coalesce_sequences": 1}

Options = dict[str, Any]


def main() -> None:
    """Measures, prints and writes results/coalescing.json."""
    repeats, seconds = (2, 0.5) if harness.quick(__doc__) else (5, 1.5)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL))
        server = stack.enter_context(Server(repository))
        sequences = VOWELS.sequences(SEQUENCES)
        bench = _Bench(server.address, list(sequences), References(repository, SMALL, sequences))
        busy: dict[str, list[float]] = {}
        measures = {
            f"{callers}, {how}": _measure(
                partial(measure, options, seconds), server, busy.setdefault(f"{callers}, {how}", [])
            )
            for callers, measure in (("threads", bench.threads), ("tasks", bench.tasks))
            for how, options in (("plain", PLAIN), ("coalesced", {}))
        }
        calls = Calls(repository, SMALL, sequences, defaults.COALESCE_SEQUENCES)
        taken = harness.in_turn(
            {**measures, "ready-made": _ready_made(server.address, calls, seconds)}, repeats
        )
    rates = {name: Spread.of(each) for name, each in taken.items()}
    shares = {name: Spread.of(each) for name, each in busy.items()}
    coalesced = {callers: taken[f"{callers}, coalesced"] for callers in ("threads", "tasks")}
    ratio = {
        callers: ratios(each, taken[f"{callers}, plain"]) for callers, each in coalesced.items()
    }
    reached = {callers: ratios(each, taken["ready-made"]) for callers, each in coalesced.items()}
    harness.show(
        f"Calls of one sequence a second, {CALLERS} callers in one process, {VOWELS.name}",
        ("callers", "plain", "coalesced", "ready-made", "coalesced ÷ plain", "÷ ready-made"),
        [
            (
                callers,
                rates[f"{callers}, plain"],
                rates[f"{callers}, coalesced"],
                rates["ready-made"],
                ratio[callers],
                reached[callers],
            )
            for callers in ratio
        ],
    )
    table = [
        Figure(
            f"coalesced-{callers}",
            spread,
            f"{reached[callers]} of ready-made requests' rate; server's core busy "
            f"{shares[f'{callers}, coalesced']} of the time, {shares[f'{callers}, plain']} in "
            "plain calls",
        )
        for callers, spread in ratio.items()
    ]
    figures.show(table)
    harness.write(
        "coalescing",
        {
            "figures": [each.document() for each in table],
            "calls_per_second": rates,
            "coalesced ÷ plain": ratio,
            "coalesced ÷ ready-made": reached,
            "share of the time that the server's core is busy": shares,
        },
    )


def _measure(measure: harness.Measure, server: Server, busy: list[float]) -> harness.Measure:
    """The measure, which also notes how busy the server was."""

    def taken() -> float:
        begin, before = time.perf_counter(), server.cpu_seconds()
        rate = measure()
        busy.append((server.cpu_seconds() - before) / (time.perf_counter() - begin))
        return rate

    return taken


def _ready_made(address: str, calls: Calls, seconds: float) -> harness.Measure:
    """Sequences a second in full requests, as many under way as the callers can fill."""
    load = Load(address, CLASSIFY, calls.messages)
    under_way = CALLERS // calls.size
    enough = calls.warm(load, under_way, seconds)
    return lambda: calls.saturate(load, under_way, enough)


class _Bench:
    """Callers that call again as soon as they are answered.

    Args:
        address: Of the server.
        sequences: What they send.
        references: What the answers have to be.
    """

    def __init__(self, address: str, sequences: list[Array], references: References) -> None:
        self._address = address
        self._sequences = sequences
        self._references = references

    def threads(self, options: Options, seconds: float) -> float:
        """Calls a second of CALLERS threads."""
        with Client(self._address, **options) as client, ThreadPoolExecutor(CALLERS) as pool:

            def caller(number: int) -> int:
                calls = 0
                while time.perf_counter() < end:
                    index = (number + CALLERS * calls) % len(self._sequences)
                    answer = client.classify([self._sequences[index]], model=SMALL)
                    if not calls:
                        self._check(answer, index)
                    calls += 1
                return calls

            end = time.perf_counter() + seconds / 4  # warms up
            list(pool.map(caller, range(CALLERS)))
            begin = time.perf_counter()
            end = begin + seconds
            calls = sum(pool.map(caller, range(CALLERS)))
            return calls / (time.perf_counter() - begin)

    def tasks(self, options: Options, seconds: float) -> float:
        """Calls a second of CALLERS tasks of one event loop."""
        return asyncio.run(self._tasks(options, seconds))

    async def _tasks(self, options: Options, seconds: float) -> float:
        async with AsyncClient(self._address, **options) as client:

            async def caller(number: int) -> int:
                calls = 0
                while time.perf_counter() < end:
                    index = (number + CALLERS * calls) % len(self._sequences)
                    answer = await client.classify([self._sequences[index]], model=SMALL)
                    if not calls:
                        self._check(answer, index)
                    calls += 1
                return calls

            end = time.perf_counter() + seconds / 4  # warms up
            await asyncio.gather(*map(caller, range(CALLERS)))
            begin = time.perf_counter()
            end = begin + seconds
            calls = sum(await asyncio.gather(*map(caller, range(CALLERS))))
            return calls / (time.perf_counter() - begin)

    def _check(self, answer: Classification, index: int) -> None:
        if ragged.encode_matrix(answer.logits) != self._references.logits(index):
            raise WrongAnswer(f"sequence {index}: its logits differ from a batch of one")


if __name__ == "__main__":
    main()
