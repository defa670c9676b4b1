"""One sequence a call, 64 calls in flight: what a call costs besides its computation.

An ideal server would need for a call what bare echo needs and what the sorted oracle needs for a
sequence, one after the other on its core: 1 / (1/echo + 1/oracle) calls a second. The callers are
plain: they share one connection, which a load generator drives, and none waits for another.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import figures, harness
from benchmarks.calls import CLASSIFY, Calls, Echoed
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.offline import Offline
from benchmarks.server_process import (
    CLIENT_CORE,
    TRANSPORTS,
    Server,
    ServerProcess,
    echo_server,
    policy_server,
)
from benchmarks.workloads import LONG_TAILED, VOWELS, Workload

IN_FLIGHT = 64
SEQUENCES = 4_096


def main() -> None:
    """Measures, prints and writes results/single_calls.json."""
    quick = harness.quick(__doc__)
    repeats, seconds = (2, 0.3) if quick else (5, 1.0)
    workloads = (LONG_TAILED,) if quick else (LONG_TAILED, VOWELS)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL))
        servers = {
            **{f"continuous, {each}": Server(repository, each) for each in TRANSPORTS},
            **{f"echo, {each}": echo_server(each) for each in TRANSPORTS},
            "padded, native": policy_server(repository, "padded"),
            "bucketed, native": policy_server(repository, "bucketed"),
        }
        for server in servers.values():
            stack.callback(server.stop)
        rows = [_case(repository, servers, workload, repeats, seconds) for workload in workloads]
    harness.show(
        f"Calls of one sequence a second, {IN_FLIGHT} in flight",
        ("server", *(row["workload"] for row in rows)),
        [(name, *(row[name] for row in rows)) for name in (*servers, "oracle")],
    )
    table = [
        Figure(key, row["continuous ÷ ideal"], f"oracle: {row['about']}")
        for key, row in zip(("single", "single-vowels"), rows, strict=False)
    ]
    figures.show(table)
    harness.write("single_calls", {"figures": [each.document() for each in table], "cases": rows})


def _case(
    repository: Path,
    servers: dict[str, ServerProcess],
    workload: Workload,
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    sequences = workload.sequences(SEQUENCES)
    calls = {
        False: Calls(repository, SMALL, sequences, size=1),
        True: Echoed(repository, SMALL, sequences, size=1),
    }
    with ExitStack() as stack:
        measures: dict[str, harness.Measure] = {}
        for name, server in servers.items():
            measures[name] = _saturation(calls["echo" in name], server, seconds)
        oracle = stack.enter_context(Offline()).sorted_oracle(repository, SMALL, sequences)
        taken = harness.in_turn({**measures, "oracle": oracle.measure}, repeats)
    ideal = [
        1 / (1 / echo + 1 / oracle)
        for echo, oracle in zip(taken["echo, native"], taken["oracle"], strict=True)
    ]
    return {
        "workload": workload.name,
        "about": oracle.about,
        **{name: Spread.of(each) for name, each in taken.items()},
        "ideal": Spread.of(ideal),
        "continuous ÷ ideal": ratios(taken["continuous, native"], ideal),
        "continuous ÷ padded": ratios(taken["continuous, native"], taken["padded, native"]),
        "continuous ÷ bucketed": ratios(taken["continuous, native"], taken["bucketed, native"]),
    }


def _saturation(calls: Calls, server: ServerProcess, seconds: float) -> harness.Measure:
    load = Load(server.address, CLASSIFY, calls.messages)
    enough = calls.warm(load, IN_FLIGHT, seconds)
    return lambda: calls.saturate(load, IN_FLIGHT, enough)


if __name__ == "__main__":
    main()
