"""Two lanes against one: the server's scheduler in-process, without gRPC, on both cores.

The caller, a thread that submits and takes results, lives in the same process on the same two
cores: what it needs is missing to the second lane.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks import figures, harness
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.models import SMALL, WIDE, published
from benchmarks.workloads import LONG_TAILED
from seqserve import artifact
from seqserve.ragged import RaggedBatch
from seqserve_server import serving
from seqserve_server.models import loading, sessions
from seqserve_server.models.runner import Runner
from seqserve_server.options import ExecutionProvider
from seqserve_server.scheduling.work import Outcome, Scheduler, Work
from seqserve_server.settings import Settings

SIZE = 32
IN_FLIGHT = 32
"""Works: enough for both lanes to have full batches and a queue."""

CASES = (("lanes", SMALL, 5_120), ("lanes-wide", WIDE, 1_280))
"""Target, model, and sequences that one lane needs about half a second for."""


def main() -> None:
    """Measures, prints and writes results/lanes.json."""
    repeats, passes = (2, 1) if harness.quick(__doc__) else (7, 3)
    with published(SMALL, WIDE) as repository:
        rows = [_case(repository, *case, repeats, passes) for case in CASES]
    harness.show(
        f"Sequences a second, {LONG_TAILED.name}, {SIZE} a submit, {IN_FLIGHT} submits in flight",
        ("model", "one lane", "two lanes", "two ÷ one"),
        [(row["model"], row["one"], row["two"], row["two ÷ one"]) for row in rows],
    )
    table = [Figure(row["target"], row["two ÷ one"]) for row in rows]
    figures.show(table)
    harness.write("lanes", {"figures": [each.document() for each in table], "cases": rows})


def _case(
    repository: Path, target: str, model: str, count: int, repeats: int, passes: int
) -> dict[str, Any]:
    sequences = LONG_TAILED.sequences(count)
    parts = [sequences.slice(first, first + SIZE) for first in range(0, count, SIZE)] * passes
    taken = harness.in_turn(
        {
            "one": _measure(repository, model, 1, parts),
            "two": _measure(repository, model, 2, parts),
        },
        repeats,
    )
    return {
        "target": target,
        "model": model,
        **{name: Spread.of(each) for name, each in taken.items()},
        "two ÷ one": ratios(taken["two"], taken["one"]),
    }


def _measure(
    repository: Path, model: str, lanes: int, parts: list[RaggedBatch]
) -> Callable[[], float]:
    """A measurement of sequences a second."""
    folder = artifact.version_path(repository, model, 1)
    served, _ = loading.load(folder, sessions.opener(ExecutionProvider.CPU))
    settings = Settings(repository, lanes=lanes)

    def measure() -> float:
        scheduler = make_scheduler(settings)
        scheduler.start()
        try:
            _seconds(scheduler, served.runner, parts[: 2 * IN_FLIGHT])  # warms up
            return SIZE * len(parts) / _seconds(scheduler, served.runner, parts)
        finally:
            scheduler.close()

    return measure


def _seconds(scheduler: Scheduler, runner: Runner, parts: list[RaggedBatch]) -> float:
    """Until every part is answered, IN_FLIGHT of them under way at a time."""
    answered: SimpleQueue[Outcome] = SimpleQueue()
    begin = time.perf_counter()
    for count, part in enumerate(parts):
        if count >= IN_FLIGHT:
            _check(answered.get())
        scheduler.submit(Work(runner, part, None, deadline=math.inf), answered.put)
    for _ in range(min(IN_FLIGHT, len(parts))):
        _check(answered.get())
    return time.perf_counter() - begin


def _check(outcome: Outcome) -> None:
    if isinstance(outcome, Exception):
        raise outcome


def make_scheduler(settings: Settings) -> Scheduler:
    """The server's own scheduler: the one place that knows how it is made."""
    return serving._scheduler(settings)


if __name__ == "__main__":
    main()
