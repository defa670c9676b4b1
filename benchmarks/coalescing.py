"""Single-sequence calls of many callers in one process: coalesced by the client against plain.

64 threads or 64 asyncio tasks call as a program would, with the client library. The process has
one core, the server the other.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from benchmarks import figures, harness
from benchmarks.calls import References, WrongAnswer
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.models import SMALL, published
from benchmarks.server_process import CLIENT_CORE, Server
from benchmarks.workloads import VOWELS
from seqserve import ragged
from seqserve.graph import Array
from seqserve_client import AsyncClient, Client
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
        taken = harness.in_turn(
            {
                f"{callers}, {how}": _measure(measure, options, seconds)
                for callers, measure in (("threads", bench.threads), ("tasks", bench.tasks))
                for how, options in (("plain", PLAIN), ("coalesced", {}))
            },
            repeats,
        )
    ratio = {
        callers: ratios(taken[f"{callers}, coalesced"], taken[f"{callers}, plain"])
        for callers in ("threads", "tasks")
    }
    harness.show(
        f"Calls of one sequence a second, {CALLERS} callers in one process, {VOWELS.name}",
        ("callers", "plain", "coalesced", "coalesced ÷ plain"),
        [
            (
                callers,
                Spread.of(taken[f"{callers}, plain"]),
                Spread.of(taken[f"{callers}, coalesced"]),
                ratio[callers],
            )
            for callers in ratio
        ],
    )
    table = [Figure(f"coalesced-{callers}", spread) for callers, spread in ratio.items()]
    figures.show(table)
    rates = {name: Spread.of(each) for name, each in taken.items()}
    harness.write(
        "coalescing",
        {
            "figures": [each.document() for each in table],
            "calls_per_second": rates,
            "coalesced ÷ plain": ratio,
        },
    )


def _measure(
    measure: Callable[[Options, float], float], options: Options, seconds: float
) -> harness.Measure:
    return lambda: measure(options, seconds)


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
